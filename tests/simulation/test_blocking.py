"""Blocking calls let other tasks run, and take the time for which they pause."""

import pytest
import trio
import trio.testing

from tests.simulation.blocking import CooperativeLock, pause, run_blocking


async def test_other_tasks_run_in_the_middle_of_a_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    happened: list[str] = []

    def call() -> str:
        happened.append("begin")
        pause(2.0)
        happened.append("end")
        return "result"

    async def other() -> None:
        await trio.sleep(1.0)
        happened.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await run_blocking(call) == "result"
    assert happened == ["begin", "other", "end"]
    assert trio.current_time() == pytest.approx(2.0)


async def test_an_error_of_the_call_is_raised_in_the_task_that_awaits_it() -> None:
    def call() -> None:
        pause(0.0)
        raise OSError("of the disk")

    with pytest.raises(OSError, match="of the disk"):
        await run_blocking(call)


async def test_a_call_cannot_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    done: list[bool] = []

    def call() -> None:
        pause(5.0)
        done.append(True)

    with trio.move_on_after(1.0):
        await run_blocking(call)
    assert done


def test_a_pause_outside_a_call_does_nothing() -> None:
    pause(1000.0)
    with CooperativeLock():
        assert True, "a free lock is acquired without waiting"


@pytest.mark.slow
async def test_a_lock_is_held_by_one_call_at_a_time(autojump_clock: trio.testing.MockClock) -> None:
    lock = CooperativeLock()
    holders: list[int] = []

    def call() -> None:
        with lock:
            holders.append(1)
            assert len(holders) == 1
            pause(0.5)
            holders.pop()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(run_blocking, call)
    assert trio.current_time() >= 2.0
