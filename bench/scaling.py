"""Processor time of operations that must not depend on how much is stored or idle.

    python -m bench.scaling                  every row
    python -m bench.scaling --only groups    rows whose name has this word

Each row starts an empty server. It prints the server's processor time for one operation, over all
threads, at sizes that differ by a factor of ten, and the ratio to the first size. Other programs on
the machine hardly change the ratios, since their processor time does not count.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

import headwater
from bench.servers import Headwater

OPERATIONS: Final = 500
"""Operations of one measurement."""

CHECKPOINT_S: Final = 6.0
"""Seconds without commits after which the server has made a checkpoint."""


class Bench:
    """A server with two connections, and the processor time that it used."""

    def __init__(self, pid: int, db: headwater.Database, other: headwater.Database) -> None:
        self.db = db
        self.other = other
        self._process = psutil.Process(pid)
        self._tasks: list[asyncio.Task[None]] = []

    async def cost_us(
        self, operation: Callable[[], Awaitable[object]], count: int = OPERATIONS
    ) -> float:
        """Microseconds of the server's processor time for one operation."""
        before = self._process.cpu_times()
        for _ in range(count):
            await operation()
        after = self._process.cpu_times()
        used = after.user + after.system - before.user - before.system
        return used / count * 1e6

    def keep(self, what: Callable[[], Awaitable[None]]) -> None:
        """Run a feed or a member until the end of the row."""
        self._tasks.append(asyncio.ensure_future(_quietly(what)))

    async def stop(self) -> None:
        """Stop what `keep` started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _quietly(what: Callable[[], Awaitable[None]]) -> None:
    await what()


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement at several sizes: it yields each size and its cost, in order."""

    name: str
    unit: str
    measure: Callable[[Bench], AsyncIterator[tuple[int, float]]]


async def _idle_groups(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    made = 0
    for count in (0, 90, 900):
        for number in range(made, count):
            name = f"g{number}"
            await bench.db.groups.create(name, category=f"none{number}", after=None)

            async def member(name: str = name) -> None:
                async with bench.other.join(name) as group:
                    async for _ in group:
                        pass

            bench.keep(member)
        made = count
        await asyncio.sleep(5)
        yield count, await bench.cost_us(lambda: bench.db.append("a-1", headwater.Event("T")))


async def _idle_key_feeds(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    made = 0
    for count in (0, 100, 1_000):
        for number in range(made, count):

            async def feed(number: int = number) -> None:
                async with bench.other.subscribe(keys=("feed", number)) as changes:
                    async for _ in changes:
                        pass

            bench.keep(feed)
        made = count
        await asyncio.sleep(5)
        yield count, await bench.cost_us(lambda: bench.db.put(("k",), 1))


async def _prefix(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    made = 0
    for count in (10_000, 100_000):
        for number in range(made, count, 1_000):
            async with bench.db.transaction() as tx:
                for place in range(10):
                    events = [headwater.Event("T", b"x" * 100)] * 100
                    tx.append(f"cat{place}-{number}", events)
        made = count
        await asyncio.sleep(CHECKPOINT_S)

        async def read() -> None:
            async for _ in bench.db.read_all(prefix="zzz"):
                pass

        yield count, await bench.cost_us(read)


async def _queue(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    for start in range(0, 26_000, 1_000):
        async with bench.db.transaction() as tx:
            for number in range(start, start + 1_000):
                tx.put(("queue", number), b"job")
    popped = 0

    async def pop() -> None:
        async with bench.db.transaction() as tx:
            async for key, _ in tx.scan(("queue",), limit=1):
                tx.delete(key)

    for count in (250, 2_500, 25_000):
        if count - popped > OPERATIONS:
            async with bench.db.transaction() as tx:
                for number in range(popped, count):
                    tx.delete(("queue", number))
            popped = count
        yield count, await bench.cost_us(pop, 200)
        popped += 200


async def _snapshots(bench: Bench) -> AsyncIterator[tuple[int, float]]:
    saved = 0

    async def save() -> None:
        nonlocal saved
        saved += 1
        async with bench.db.transaction() as tx:
            tx.append("acc-1", headwater.Event("T"))
            tx.save_snapshot("acc-1", version=saved, state={"n": saved}, schema=1)

    for count in (100, 1_000, 10_000):
        while saved < count:
            await save()
        yield count, await bench.cost_us(save, 100)


ROWS: Final = (
    Row("an append beside idle consumer groups", "groups", _idle_groups),
    Row("a put beside idle key feeds", "feeds", _idle_key_feeds),
    Row("a read of a prefix that no stream has", "events", _prefix),
    Row("a pop of a queue in keys", "popped", _queue),
    Row("a save of a snapshot", "saved", _snapshots),
)


@asynccontextmanager
async def _bench() -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as directory:
        server = Headwater(Path(directory) / "data")
        server.start()
        url = f"headwater://127.0.0.1:{server.port}"
        try:
            async with headwater.connect(url) as db, headwater.connect(url) as other:
                bench = Bench(server.pid, db, other)
                try:
                    yield bench
                finally:
                    await bench.stop()
        finally:
            server.stop()


async def run(only: str) -> None:
    """Measure and print the rows."""
    for row in ROWS:
        if only not in row.name:
            continue
        async with _bench() as bench:
            first = 0.0
            async for size, cost in row.measure(bench):
                first = first or cost
                print(
                    f"{row.name:45s} {size:8d} {row.unit:8s} {cost:9.0f} us {cost / first:6.2f}",
                    flush=True,
                )


def main(arguments: list[str]) -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name has this word")
    asyncio.run(run(parser.parse_args(arguments).only))


if __name__ == "__main__":
    main(sys.argv[1:])
