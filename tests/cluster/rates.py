"""What a cluster costs: puts on a lone server and on a cluster, and appends to the stream itself.

    python -m tests.cluster.rates --seconds 5

All run one after another on this machine: three NATS servers that sync each message, three nodes,
and then one server without a cluster. Clients are processes, each with one connection.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import headwater
from headwater.cli.server_process import ServerProcess
from headwater_server.net.jetstream.connection import NatsConnection
from headwater_server.storage.jetstream.log import JetStreamLog
from headwater_server.storage.jetstream.settings import StreamPlan
from headwater_server.storage.jetstream.stream import Stream
from tests.cluster.nats_servers import NatsServers
from tests.cluster.torture import NAMES, real_cluster

CONNECTIONS: Final = 32
PROCESSES: Final = 4
VALUE: Final = b"x" * 100


def one_at_a_time(call: Callable[[], object], seconds: float) -> str:
    """The rate and the latency of calls, one after another."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        call()
        times.append(time.perf_counter() - began)
    times.sort()
    return (
        f"{len(times) / seconds:,.0f}/s, median {statistics.median(times) * 1000:.2f} ms, "
        f"99 % below {times[len(times) * 99 // 100] * 1000:.2f} ms"
    )


def _puts(given: tuple[str, int, float]) -> int:
    """Puts over several connections of one process, and how many there were."""
    import trio

    url, number, seconds = given
    count = 0

    async def put(connection: int) -> None:
        nonlocal count
        async with headwater.connect(url) as db:
            while True:
                await db.put(("k", number, connection), VALUE)
                count += 1

    async def run() -> None:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for connection in range(CONNECTIONS // PROCESSES):
                    nursery.start_soon(put, connection)

    trio.run(run)
    return count


def many(url: str, seconds: float) -> str:
    """The rate of puts over all connections."""
    with get_context("spawn").Pool(PROCESSES) as pool:
        counts = pool.map(_puts, [(url, number, seconds) for number in range(PROCESSES)])
    return f"{sum(counts) / seconds:,.0f}/s"


def appends(servers: NatsServers, seconds: float) -> str:
    """Appends of entries to a stream, without a node."""
    service = NatsConnection.open(servers.urls, "rates")
    try:
        stream = Stream(service, "rates", replicas_min=3)
        log = JetStreamLog(stream, stream.make(StreamPlan("rates", 3, bytes(16))), random.Random())
        log.claim(log.last_index)
        return one_at_a_time(lambda: log.submit([VALUE]), seconds)
    finally:
        service.close()


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        with real_cluster(Path(directory)) as cluster:
            print(f"appends to the stream, one at a time: {appends(cluster.nats, seconds)}")
            leader = None
            while leader is None:
                leader = cluster.leader()
            url = cluster.nodes[leader].url
            with headwater.connect_blocking(url) as db:
                shown = one_at_a_time(lambda: db.put("k", VALUE), seconds)
            print(f"puts to a cluster of {len(NAMES)}, one connection: {shown}")
            print(f"puts to a cluster, {CONNECTIONS} connections: {many(url, seconds)}")
        (Path(directory) / "lone").mkdir()
        with ServerProcess(Path(directory) / "lone") as server:
            with headwater.connect_blocking(server.url) as db:
                shown = one_at_a_time(lambda: db.put("k", VALUE), seconds)
            print(f"puts to a lone server, one connection: {shown}")
            print(f"puts to a lone server, {CONNECTIONS} connections: {many(server.url, seconds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
