"""`make cluster-demo`: loads flights into a cluster while its nodes are killed, and compares.

    three NATS servers, three nodes      all on this machine, in a temporary directory
    load ---- kill the leader ---- kill a NATS server ---- stop the leader for 4 s ---- all in
    read the events of each node, and compare them with the file

A flight is an event of its aircraft, with an id that follows from the file. So a write whose answer
was lost is sent again and counts once.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import headwater
from headwater.cli.flights import Flight, find_file, read_flights, shares
from tests.cluster.torture import LOOK_S, NAMES, RealCluster, real_cluster

CLIENTS: Final = 4
PAUSE_S: Final = 4.0


class Load:
    """Clients that load flights wherever the leader is."""

    def __init__(self, cluster: RealCluster, flights: Sequence[Flight]) -> None:
        self.answered: list[float] = []
        self._cluster = cluster
        self._threads = [
            threading.Thread(target=self._load, args=(share,)) for share in shares(flights, CLIENTS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        while len(self.answered) < count and any(each.is_alive() for each in self._threads):
            time.sleep(LOOK_S)  # threads that load

    def _load(self, flights: Sequence[Flight]) -> None:
        connection: Any = None
        for flight in flights:
            identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{flight.stream} {flight.nth}")
            event = headwater.Event(flight.type, flight.details, id=identity)
            while True:
                try:
                    connection = connection or self._connected()
                    connection.append(flight.stream, event)
                except (headwater.HeadwaterError, OSError):
                    if connection is not None:
                        with contextlib.suppress(Exception):
                            connection.close()
                    connection = None
                    continue
                self.answered.append(time.monotonic())
                break
        connection.close()

    def _connected(self) -> Any:
        name = self._cluster.leader()
        if name is None:
            time.sleep(LOOK_S)  # an election of other processes
            raise headwater.ConnectionLost("nobody leads")
        db = headwater.connect_blocking(
            self._cluster.nodes[name].url, connect_timeout=1, request_timeout=3, retry_timeout=0.05
        )
        return db.__enter__()

    def longest_silence(self) -> float:
        times = sorted(self.answered)
        return max(after - before for before, after in itertools.pairwise(times))


def break_things(cluster: RealCluster, load: Load, count: int, console: Console) -> None:
    """Kill and stop nodes of both kinds at fixed parts of the load."""
    load.wait_for(count // 4)
    leader = cluster.leader() or NAMES[0]
    console.print(f"{len(load.answered)} flights: node {leader}, which leads, is killed")
    cluster.kill(leader)
    load.wait_for(count // 2)
    cluster.start(leader)
    server = cluster.nats.servers[0]
    console.print(f"{len(load.answered)} flights: NATS server {server.name} is killed")
    server.kill()
    load.wait_for(count * 5 // 8)
    server.start()
    leader = cluster.leader() or NAMES[0]
    console.print(f"{len(load.answered)} flights: node {leader} is stopped for {PAUSE_S:g} s")
    pid = cluster.nodes[leader].pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE_S)  # longer than its lease
    os.kill(pid, signal.SIGCONT)


def events_of(cluster: RealCluster, name: str) -> Counter[tuple[str, str]]:
    """The events of a node, by stream and type."""
    with headwater.connect_blocking(cluster.nodes[name].url) as db:
        return Counter((event.stream, event.type) for event in db.read_all())


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, default=8000)
    given = parser.parse_args()
    console = Console()
    flights = read_flights(find_file(), limit=given.flights)
    wanted = Counter((flight.stream, flight.type) for flight in flights)
    with tempfile.TemporaryDirectory() as directory, real_cluster(Path(directory)) as cluster:
        console.print("three NATS servers and three nodes run")
        load = Load(cluster, flights)
        began = time.monotonic()
        load.start()
        break_things(cluster, load, len(flights), console)
        load.join()
        seconds = time.monotonic() - began
        leader = cluster.leader() or NAMES[0]
        newest = cluster.node_of(leader).commit
        table = Table(box=SIMPLE)
        for column in ("node", "role", "commit", "events", "as in the file"):
            table.add_column(column)
        equal = True
        for name in NAMES:
            with headwater.connect_blocking(cluster.nodes[name].url) as db:
                db.wait_commit(newest, timeout=60)
            found, node = events_of(cluster, name), cluster.node_of(name)
            same = found == wanted
            equal = equal and same
            table.add_row(name, node.role, str(node.commit), str(found.total()), str(same))
        console.print(table)
    console.print(
        f"{len(flights)} flights in {seconds:.1f} s; the longest time without an answer was "
        f"{load.longest_silence():.1f} s"
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
