"""The journey of a request: the functions that it calls, and how often it changes module.

    python -m bench.journey                        a table of all journeys of this checkout
    python -m bench.journey --list put             also the functions of one, by their first call
    python -m bench.journey --checkout ../other    the same for another checkout

The figures are counts, so they do not depend on the machine. They are counted in the source, with
files in memory and without sockets, from the received bytes to the bytes to send. Only
functions of headwater_protocol and headwater_server count. A comprehension counts as a function,
and a generator counts as one call, however often it is resumed. Python 3.12 and later inline list
comprehensions, so counts of different Python versions are not comparable.
"""

import argparse
import gc
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import trio
import trio.testing

if TYPE_CHECKING:
    from tests.test_costs import Costs

PACKAGES: Final = ("headwater_protocol", "headwater_server")
"""The packages whose calls count. They include the in-memory files and store."""

PUTS: Final = 16
"""Requests of one connection that are served in one turn and share an fsync."""

CREDIT: Final = 1_000
"""Credit of the subscriber: more than the events that are appended here."""

SCAN_KEYS: Final = 100
VALUE: Final = bytes(100)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of Headwater's functions."""

    module: str
    function: str

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"


@dataclass(frozen=True, slots=True)
class Journey:
    """The calls that requests of one kind made, in order.

    Attributes:
        requests: number of requests that these calls served.
    """

    name: str
    title: str
    calls: tuple[Call, ...]
    requests: int = 1

    @property
    def functions(self) -> tuple[Call, ...]:
        """The distinct functions, in the order of their first calls."""
        return tuple(dict.fromkeys(self.calls))

    @property
    def modules(self) -> int:
        """The number of distinct modules."""
        return len({call.module for call in self.calls})

    @property
    def changes(self) -> int:
        """The number of calls in another module than the previous call."""
        return sum(before.module != after.module for before, after in pairwise(self.calls))


def traced(function: Callable[[], object]) -> tuple[Call, ...]:
    """The calls of Headwater's functions that *function* makes."""
    calls: list[Call] = []
    # Keep all frames alive, so that no two have the same id().
    generators: set[FrameType] = set()

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in PACKAGES:
            return
        code = frame.f_code
        if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
            if frame in generators:
                return
            generators.add(frame)
        calls.append(Call(module, code.co_qualname))

    # A garbage collection could call Headwater's callbacks.
    gc.disable()
    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return tuple(calls)


class _Tracing:
    """A database in memory whose requests are traced."""

    def __init__(self, costs: "Costs", frame: Callable[..., bytes]) -> None:
        self._costs = costs
        self._frame = frame
        self._ids = 0
        self._appends = 0

    def all(self) -> Iterator[Journey]:
        """Trace all journeys except that to a subscriber.

        Each kind of request has been served before, so streams and caches are warm.
        """
        key, stored = b"k000", [["put", b"k%03d" % n, VALUE] for n in range(SCAN_KEYS)]
        get = self._frame(1, "get", None, key)
        scan = self._frame(1, "scan", None, b"", None, SCAN_KEYS)
        self._costs.request("execute", self._id(), [], [], stored)
        yield self._journey("get-memtable", "get, from the memtable", get)
        self._costs.database.checkpoint()
        yield self._journey("get-files", "get, from the files", get)
        self._costs.request("scan", None, b"", None, SCAN_KEYS)
        yield self._journey("scan", f"scan of {SCAN_KEYS} keys, from the files", scan)
        self._serve(self._put(key))
        yield self._journey("put", "put, alone", self._put(key))
        puts = b"".join(self._put(b"k%03d" % n, number=1 + n) for n in range(PUTS))
        yield self._journey("put-16", f"put, {PUTS} in one turn", puts, PUTS)
        self._serve(self._append())
        yield self._journey("append", "append, alone", self._append())
        yield self._transaction(key)
        for _ in range(2):
            self._costs.database.checkpoint()
            self._serve(self._put(key))
            self._serve(self._put(key))
        calls = traced(self._costs.database.checkpoint)
        yield Journey("checkpoint", "checkpoint of 2 commits", calls)

    async def append_to_subscriber(self) -> Journey:
        """Trace an append that is pushed to a live subscriber of all events."""
        self._serve(self._append())
        self._costs.request("subscribe", 0, {}, CREDIT)
        async with trio.open_nursery() as nursery:
            # A task pushes past events. It is idle once the subscriber is live.
            nursery.start_soon(self._costs.server.service.subscriptions.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        self._costs.take()
        self._serve(self._append())
        return self._journey("append-live", "append, with a live subscriber", self._append())

    def _transaction(self, key: bytes) -> Journey:
        for _ in range(2):
            transaction = self._id()
            self._serve(self._frame(1, "begin", transaction))
            self._serve(self._frame(2, "get", transaction, key))
            commit = self._frame(3, "commit", transaction, [["put", key, VALUE]])
            journey = self._journey("commit", "commit of a transaction that read a key", commit)
        return journey

    def _journey(self, name: str, title: str, data: bytes, requests: int = 1) -> Journey:
        calls = traced(lambda: self._receive(data))
        self._take()
        return Journey(name, title, calls, requests)

    def _serve(self, data: bytes) -> None:
        self._receive(data)
        self._take()

    def _receive(self, data: bytes) -> None:
        """Process received bytes like the driver: serve requests, then make commits durable."""
        self._costs.session.receive(data)
        if not self._costs.session.output_size:
            self._costs.commit()

    def _take(self) -> None:
        """Take the answers, and check that the first is not an error."""
        answers = self._costs.take()
        assert answers, "every request is answered"
        assert b"\x01\x94" not in answers[:8], f"an error: {answers!r}"

    def _put(self, key: bytes, *, number: int = 1) -> bytes:
        return self._frame(number, "execute", self._id(), [], [], [["put", key, VALUE]])

    def _append(self) -> bytes:
        events = [[None, "Happened", VALUE, b""]]
        append = ["append", "stream-1", self._appends, events]
        self._appends += 1
        return self._frame(1, "execute", self._id(), [], [], [append])

    def _id(self) -> bytes:
        """A UUIDv7, as clients make it. Other ids need another look-up."""
        self._ids += 1
        time = (self._costs.database.now // 1000) << 16 | 0x7000
        return time.to_bytes(8, "big") + (1 << 63 | self._ids).to_bytes(8, "big")


async def journeys() -> list[Journey]:
    """Trace all journeys of the imported source."""
    from headwater_protocol.compiled import in_use
    from tests.test_costs import Costs, frame

    assert not in_use(), "calls of compiled functions cannot be traced"
    found = list(_Tracing(Costs(), frame).all())
    found.append(await _Tracing(Costs(), frame).append_to_subscriber())
    return found


def table(found: list[Journey]) -> Iterator[str]:
    """The lines of the table."""
    width = max(len(each.title) for each in found)
    heads = f"{'calls':>6} {'each':>6} {'functions':>9} {'modules':>7} {'changes':>7}"
    yield f"{'request':<{width}} {heads}  name"
    for each in found:
        yield (
            f"{each.title:<{width}} {len(each.calls):>6} {len(each.calls) / each.requests:>6.1f}"
            f" {len(each.functions):>9}"
            f" {each.modules:>7} {each.changes:>7}  {each.name}"
        )


def main() -> None:
    """Print the table, and the functions of the journeys in --list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkout", type=Path, help="the root of another checkout")
    parser.add_argument("--list", metavar="NAMES", help="journeys, with commas; or all")
    given = parser.parse_args()
    if given.checkout is not None or os.environ.get("HEADWATER_PURE") != "1":
        sys.exit(_in_checkout(given.checkout or Path(__file__).parent.parent, given.list))
    found = trio.run(journeys)
    print("\n".join(table(found)))
    wanted = {each.name for each in found} if given.list == "all" else set()
    wanted |= set((given.list or "").split(","))
    for each in found:
        if each.name in wanted:
            print(f"\n{each.title}", *each.functions, sep="\n")


def _in_checkout(root: Path, names: str | None) -> int:
    """Run this file on the source of a checkout, with the in-memory database of its tests."""
    folders = [root / name for name in ("protocol", "client", "server", "")]
    environment: dict[str, Any] = {**os.environ, "HEADWATER_PURE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(folder.resolve()) for folder in folders)
    command = [sys.executable, "-P", __file__, *(("--list", names) if names else ())]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    main()
