"""The time of a restart after kill -9, and the memory of the server.

    load n keys and n events -> kill -9 under load -> start: seconds to the first answer
                             -> read and write all over the keys and streams: private memory

Both should depend on the data written since the last checkpoint, not on all stored data. To verify
this, compare runs with different n.

    python -m bench.restart --keys 1000000 --json restart.json
"""

import asyncio
import itertools
import json
import platform
import random
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import psutil

import headwater
from headwater.cli.server_process import ServerProcess

MIB: Final = 1024 * 1024

BATCH: Final = 1000
"""Keys and events in each transaction of the load."""

EVENTS_A_STREAM: Final = 100
"""Events of a stream; a transaction of the load fills BATCH / EVENTS_A_STREAM of them."""

VALUE_SIZE: Final = 100
"""Bytes of a value and of an event's data."""

WORKERS: Final = 8
"""Concurrent transactions."""

WATCH_S: Final = 0.2
"""Seconds between two samples of the server's memory."""

PAYLOAD: Final = random.Random(1).randbytes(VALUE_SIZE)
"""Incompressible bytes, so that the stored size is the real size."""


Worker = Callable[[headwater.Database], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of a run. Sizes are in MiB, times in seconds."""

    keys: int
    events: int
    load_s: float
    stored_mib: float
    log_mib: float
    restart_s: tuple[float, ...]
    restart_cpu_s: tuple[float, ...]
    loading_peak_mib: float
    restarted_mib: float
    touching_peak_mib: float
    python: str
    cores: int


class MemoryWatch:
    """The peak of a process's private memory in MiB, by sampling."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_mib = 0.0

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            self.peak_mib = max(self.peak_mib, private_mib(self._process))


def private_mib(process: psutil.Process) -> float:
    """Memory that only this process uses, and that would be free if it ended."""
    return float(process.memory_full_info().uss) / MIB


def folder_mib(folder: Path) -> float:
    """The disk space of the files in a folder."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / MIB


# The load.


async def load(url: str, keys: int) -> None:
    """Write the keys and as many events. Each transaction has a batch of both."""
    batches = iter(range(0, keys, BATCH))

    async def worker(db: headwater.Database) -> None:
        for first in batches:
            async with db.transaction() as tx:
                for number in range(first, min(first + BATCH, keys)):
                    tx.put(("item", number), PAYLOAD)
                for number in range(first, min(first + BATCH, keys), EVENTS_A_STREAM):
                    events = [headwater.Event("Changed", PAYLOAD)] * EVENTS_A_STREAM
                    tx.append(stream_of(number), events)

    await _all_workers(url, worker)


async def touch(url: str, keys: int, source: random.Random, transactions: int) -> None:
    """Read and write random keys and streams."""
    turns = iter(range(transactions))

    async def worker(db: headwater.Database) -> None:
        for _ in turns:
            await db.run(change, [source.randrange(keys) for _ in range(3)])

    async def change(tx: headwater.Transaction, numbers: Sequence[int]) -> None:
        read, put, append = numbers
        await tx.get(("item", read))
        if read % 10 == 0:
            await tx.load(stream_of(read))
        tx.put(("item", put), PAYLOAD)
        tx.append(stream_of(append), [headwater.Event("Changed", PAYLOAD)])

    await _all_workers(url, worker)


async def first_answer(url: str, keys: int) -> None:
    """Ping, read a key and a stream, to check that the database is open and complete."""
    async with headwater.connect(url) as db:
        await db.ping()
        assert await db.get(("item", keys // 2)) == PAYLOAD
        assert (await db.load(stream_of(keys // 2))).version >= EVENTS_A_STREAM


def stream_of(number: int) -> str:
    """The stream that the event of this number belongs to."""
    return f"item-{number // EVENTS_A_STREAM}"


async def _all_workers(url: str, worker: Worker) -> None:
    async with headwater.connect(url) as db, asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker(db))


# The measurement.


async def kill_under_load(
    server: ServerProcess, keys: int, source: random.Random, commits: int
) -> None:
    """Kill the server by SIGKILL after *commits* commits, while clients write."""
    numbers = itertools.count(1)
    reached = asyncio.Event()

    async def worker(db: headwater.Database) -> None:
        try:
            while True:
                await db.put(("item", source.randrange(keys)), PAYLOAD)
                if next(numbers) == commits:
                    reached.set()
        except (headwater.CommitUnknown, headwater.ConnectionLost):
            return

    connection = headwater.connect(server.url, retry_timeout=0)
    async with connection as db, asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker(db))
        await reached.wait()
        server.kill()


def restart(server: ServerProcess, keys: int) -> tuple[float, float]:
    """Elapsed and processor seconds from the process's start to the answers of `first_answer`.

    On a busy machine the processor time is more reliable.
    """
    began = time.perf_counter()
    server.start()
    asyncio.run(first_answer(server.url, keys))
    passed_s = time.perf_counter() - began
    times = psutil.Process(server.pid).cpu_times()
    return passed_s, times.user + times.system


def measure(
    directory: Path, keys: int, *, kills: int, commits: int, touches: int, seed: int
) -> Figures:
    """Do one run, with all files under *directory*.

    The first kill comes after *commits* under load, the second after twice as many, and so on,
    so that the replayed log has several lengths.
    """
    source = random.Random(seed)
    server = ServerProcess(directory)
    server.start()
    try:
        began = time.perf_counter()
        with MemoryWatch(server.pid) as loading:
            asyncio.run(load(server.url, keys))
        load_s = time.perf_counter() - began
        restarts = []
        for kill in range(1, kills + 1):
            asyncio.run(kill_under_load(server, keys, source, kill * commits))
            log_mib = folder_mib(server.data / "wal")
            restarts.append(restart(server, keys))
        restarted_mib = private_mib(psutil.Process(server.pid))
        with MemoryWatch(server.pid) as touching:
            asyncio.run(touch(server.url, keys, source, touches))
    finally:
        server.stop()
    return Figures(
        keys=keys,
        events=keys,
        load_s=load_s,
        stored_mib=folder_mib(server.data),
        log_mib=log_mib,
        restart_s=tuple(passed_s for passed_s, _ in restarts),
        restart_cpu_s=tuple(used_s for _, used_s in restarts),
        loading_peak_mib=loading.peak_mib,
        restarted_mib=restarted_mib,
        touching_peak_mib=touching.peak_mib,
        python=platform.python_version(),
        cores=psutil.cpu_count() or 0,
    )


def table(figures: Figures) -> Iterator[str]:
    """The figures as rows of a table."""
    restarts = ", ".join(f"{seconds:.2f}" for seconds in figures.restart_s)
    used = ", ".join(f"{seconds:.2f}" for seconds in figures.restart_cpu_s)
    rows = {
        "keys, and events": f"{figures.keys:,} each",
        "loading": f"{figures.load_s:.1f} s",
        "files": f"{figures.stored_mib:,.0f} MiB",
        "write-ahead log at the kill": f"{figures.log_mib:,.0f} MiB",
        "restart after kill -9, to the first answers": f"{restarts} s",
        "  processor time of it": f"{used} s",
        "private memory: most while loading": f"{figures.loading_peak_mib:,.0f} MiB",
        "private memory: after the restart": f"{figures.restarted_mib:,.0f} MiB",
        "private memory: most while reading and writing": f"{figures.touching_peak_mib:,.0f} MiB",
    }
    width = max(map(len, rows))
    for what, figure in rows.items():
        yield f"{what:<{width}}  {figure}"


@click.command(context_settings={"show_default": True})
@click.option("--keys", default=1_000_000, help="Keys, and events, to store.")
@click.option("--kills", default=3, help="How often to kill and restart.")
@click.option("--commits", default=16_000, help="Commits before the first kill.")
@click.option("--touches", default=50_000, help="Transactions all over the data at the end.")
@click.option("--seed", default=1, help="Seed of the random keys.")
@click.option("--json", "result", type=click.Path(path_type=Path), help="A file for the figures.")
@click.option("--directory", type=click.Path(exists=True), help="Where to put the data.")
def main(
    keys: int,
    kills: int,
    commits: int,
    touches: int,
    seed: int,
    result: Path | None,
    directory: str | None,
) -> None:
    """How long a restart takes after kill -9, and how much memory the server needs."""
    with tempfile.TemporaryDirectory(prefix="headwater-bench-", dir=directory) as place:
        figures = measure(
            Path(place), keys, kills=kills, commits=commits, touches=touches, seed=seed
        )
    click.echo("\n".join(table(figures)))
    if result is not None:
        result.write_text(json.dumps(asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
