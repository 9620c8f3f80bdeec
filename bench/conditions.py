"""Headwater against itself: under a checkpoint, on a slow disk, after a crash.

Each measurement gives the same workload twice, with and without what is in question, in turn.
"""

import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.load import Load, Measured
from bench.servers import Headwater
from bench.workloads import WORKLOADS, Workload, fill

SLOW_SYNC_US: Final = 50_000
NO_CHECKPOINT: Final = ("--checkpoint-commits", "100000000", "--checkpoint-size", "4000")
OFTEN: Final = ("--checkpoint-commits", "5000")
WRITERS: Final = 4
"""Connections that put while the reads are measured: a quiet disk would slow nobody."""


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
    """p99 of puts with a checkpoint nearly all the time, over that without one; a round each."""
    ratios: list[float] = []
    for number in range(rounds):
        with _server(directory / f"quiet-{number}", *NO_CHECKPOINT) as quiet:
            without = _run(load, quiet, "put", seconds, 32)
        with _server(directory / f"busy-{number}", *OFTEN) as busy:
            during = _run(load, busy, "put", seconds, 32)
        ratios.append(during.p99_us / without.p99_us)
    return ratios


def slow_disk(load: Load, directory: Path, rounds: int, seconds: float) -> list[float]:
    """p99 of gets beside puts on a disk whose sync takes 50 ms, over that on the disk as it is."""
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
    with Load() as other:
        arguments = (other, server, "put", seconds + 1, WRITERS)
        writer = threading.Thread(target=_run, args=arguments)
        writer.start()
        try:
            return _run(load, server, "get", seconds, 32)
        finally:
            writer.join()


def recovery(load: Load, directory: Path, rounds: int, seconds: float) -> list[float]:
    """Commits of the log that a start after kill -9 replays in a second."""
    rates: list[float] = []
    for number in range(rounds):
        server = Headwater(directory / f"killed-{number}", NO_CHECKPOINT)
        server.start()
        make = _workload("put-16-deep").scripts["headwater"]
        scripts = [make(random.Random(each), each) for each in range(32)]
        run = load.run("headwater", server.port, scripts, depth=16, warm_up_s=0, measure_s=seconds)
        server.process.kill()
        replayed = server.process.start()
        server.process.stop()
        # Stopped in order, it has nothing to replay: what is left is the start itself.
        started = server.process.start()
        server.process.stop()
        rates.append(run.requests / max(replayed - started, 1e-6))
    return rates
