"""Headwater compared with itself: during checkpoints, on a slow disk, after a crash.

Each measurement runs the same workload with and without the condition, alternately.
"""

import random
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.load import Load, Measured
from bench.servers import Headwater
from bench.workloads import KEYS, VALUE, WORKLOADS, Workload, fill, key
from headwater_server.engine.settings import EngineSettings
from headwater_server.net.process import open_directory
from headwater_server.net.settings import ServerSettings

SLOW_SYNC_US: Final = 50_000
NO_CHECKPOINTS: Final = ("--checkpoint-commits", "100000000", "--checkpoint-size", "4000")
FREQUENT_CHECKPOINTS: Final = ("--checkpoint-commits", "5000")
REPLAYED: Final = 50_000
"""Commits in the log that is replayed: as many as between two checkpoints."""

_GROUP_COMMITS: Final = 250

WRITERS: Final = 4
"""Connections that put during the reads. Without writes, a slow disk would not matter."""


def _workload(name: str) -> Workload:
    return next(each for each in WORKLOADS if each.name == name)


@contextmanager
def _server(
    directory: Path,
    *options: str,
    environment: dict[str, str] | None = None,
) -> Iterator[Headwater]:
    server = Headwater(directory, options, environment)
    server.start()
    try:
        fill(server)
        yield server
    finally:
        server.stop()


def _run(load: Load, server: Headwater, name: str, seconds: float, connections: int) -> Measured:
    make = _workload(name).scripts["headwater"]
    scripts = [make(random.Random(number), number) for number in range(connections)]
    return load.run("headwater", server.port, scripts, warm_up_s=0.5, measure_s=seconds)


def checkpoint(load: Load, directory: Path, rounds: int, seconds: float) -> list[float]:
    """p99 of puts during constant checkpoints, divided by p99 without checkpoints, by round."""
    ratios: list[float] = []
    for number in range(rounds):
        with _server(directory / f"quiet-{number}", *NO_CHECKPOINTS) as quiet:
            without = _run(load, quiet, "put", seconds, 32)
        with _server(directory / f"busy-{number}", *FREQUENT_CHECKPOINTS) as busy:
            during = _run(load, busy, "put", seconds, 32)
        ratios.append(during.p99_us / without.p99_us)
    return ratios


def slow_disk(load: Load, directory: Path, rounds: int, seconds: float) -> list[float]:
    """p99 of gets during puts with an fsync of 50 ms, divided by p99 on the real disk."""
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True
    )
    slow = {"LD_PRELOAD": str(library), "SLOW_SYNC_US": str(SLOW_SYNC_US)}
    ratios: list[float] = []
    for number in range(rounds):
        with _server(directory / f"fast-{number}") as server:
            fast = _reads_beside_puts(load, server, seconds)
        with _server(directory / f"slow-{number}", environment=slow) as server:
            slowed = _reads_beside_puts(load, server, seconds)
        ratios.append(slowed.p99_us / fast.p99_us)
    return ratios


def _reads_beside_puts(load: Load, server: Headwater, seconds: float) -> Measured:
    with Load() as second:
        arguments = (second, server, "put", seconds + 1, WRITERS)
        writer = threading.Thread(target=_run, args=arguments)
        writer.start()
        try:
            return _run(load, server, "get", seconds, 32)
        finally:
            writer.join()


def recovery(load: Load, directory: Path, rounds: int, seconds: float) -> list[float]:
    """Commits per second that a start replays after a kill -9."""
    rates: list[float] = []
    for number in range(rounds):
        path = directory / f"log-{number}"
        path.mkdir(parents=True)
        settings = ServerSettings(
            data=str(path / "data"),
            engine=EngineSettings(memtable_commits_max=2 * REPLAYED, memtable_size_max=1 << 32),
        )
        engine = open_directory(settings)
        for first in range(0, REPLAYED, _GROUP_COMMITS):
            for place in range(first, first + _GROUP_COMMITS):
                put = ["put", key(place % KEYS), VALUE]
                transaction = uuid.uuid4().bytes
                engine.execute(transaction, user=0, conditions=[], reads=None, writes=[put])
            group = engine.take_group()
            assert group is not None
            engine.make_durable(group)
            engine.publish(group)
        engine.close()
        began = time.perf_counter()
        engine = open_directory(settings)
        rates.append(REPLAYED / (time.perf_counter() - began))
        assert engine.published == REPLAYED
        engine.close()
    return rates
