"""Transactions of one client that conflict on a key wait for each other in line."""

import asyncio
import threading
from typing import Any

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.transport import turns
from headwater.transport.asyncio_runtime import TaskBell
from headwater.transport.turns import Turn, Turns

TASKS = 20


class Counting:
    """Counts how often it is called while it increments a key."""

    def __init__(self, key: str) -> None:
        self.key = ("turns", key)
        self.attempts = 0

    async def bump(self, tx: headwater.Transaction) -> None:
        self.attempts += 1
        tx.put(self.key, await tx.get(self.key, 0) + 1)

    def bump_blocking(self, tx: headwater.BlockingTransaction) -> None:
        self.attempts += 1
        tx.put(self.key, tx.get(self.key, 0) + 1)


def test_every_task_needs_two_attempts_at_most_on_asyncio(real_server: ServerProcess) -> None:
    counting = Counting("asyncio")

    async def main() -> None:
        async with headwater.connect(real_server.url) as db:
            await asyncio.gather(*(db.run(counting.bump) for _ in range(TASKS)))
            assert await db.get(counting.key) == TASKS
            assert not db._channel.turns._lines

    asyncio.run(main())
    assert counting.attempts <= 2 * TASKS


async def test_every_task_needs_two_attempts_at_most_on_trio(real_server: ServerProcess) -> None:
    counting = Counting("trio")
    async with headwater.connect(real_server.url) as db:
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(db.run, counting.bump)
        assert await db.get(counting.key) == TASKS
        assert not db._channel.turns._lines
    assert counting.attempts <= 2 * TASKS


def test_every_thread_needs_two_attempts_at_most(real_server: ServerProcess) -> None:
    counting = Counting("blocking")
    with headwater.connect_blocking(real_server.url) as db:
        threads = [
            threading.Thread(target=db.run, args=(counting.bump_blocking,)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert db.get(counting.key) == 8
        assert not db._core._channel.turns._lines
    assert counting.attempts <= 16


def in_a_loop(work: Any) -> None:
    asyncio.run(work())


def test_turns_come_in_the_order_of_the_line() -> None:
    async def main() -> None:
        lines = Turns(TaskBell)
        order: list[int] = []

        async def wait(number: int) -> None:
            turn = Turn(lines)
            await turn.enter(["a"])
            order.append(number)
            await asyncio.sleep(0)
            turn.leave()

        await asyncio.gather(*map(wait, range(10)))
        assert order == [*range(10)]
        assert not lines.has_line("a")

    in_a_loop(main)


def test_one_that_is_cancelled_in_line_does_not_stop_those_behind_it() -> None:
    async def main() -> None:
        lines = Turns(TaskBell)
        first, last = Turn(lines), Turn(lines)
        await first.enter(["a"])
        cancelled = asyncio.ensure_future(Turn(lines).enter(["a"]))
        behind = asyncio.ensure_future(last.enter(["a"]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        first.leave()
        await behind
        last.leave()
        assert not lines.has_line("a")

    in_a_loop(main)


def test_one_that_never_leaves_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S_MAX", 0.01)

    async def main() -> None:
        lines = Turns(TaskBell)
        stuck, behind, last = Turn(lines), Turn(lines), Turn(lines)
        await stuck.enter(["a"])
        await behind.enter(["a"])
        behind.leave()
        await last.enter(["a"])
        # It comes back after all, and takes nothing from those who passed it by.
        stuck.leave()
        assert lines.has_line("a")
        last.leave()
        assert not lines.has_line("a")

    in_a_loop(main)


def test_two_that_want_the_same_names_in_another_order_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        lines = Turns(TaskBell)
        done: list[int] = []

        async def take(number: int, names: list[str | bytes]) -> None:
            turn = Turn(lines)
            await turn.enter(names)
            await asyncio.sleep(0)
            turn.leave()
            done.append(number)

        # Less than the time after which one would pass the other by.
        async with asyncio.timeout(turns.TURN_S_MAX * 0.9):
            await asyncio.gather(take(1, ["a", b"b"]), take(2, [b"b", "a"]), take(3, ["a"]))
        assert sorted(done) == [1, 2, 3]

    in_a_loop(main)
