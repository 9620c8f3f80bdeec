"""Locks on trio, asyncio and without an event loop."""

import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import run_on

ASYNC = ("trio", "asyncio", "uvloop")


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


async def together(*works: Callable[[], Awaitable[None]]) -> None:
    """Run functions in tasks until all have ended."""
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(work)
        return
    import asyncio

    await asyncio.gather(*(work() for work in works))


@pytest.mark.parametrize("face", ASYNC)
def test_one_holds_a_lock_at_a_time_in_the_order_of_their_numbers(
    face: str, real_server: ServerProcess, name: str
) -> None:
    fences: list[int] = []
    inside = 0

    async def scenario(db: headwater.Database) -> None:
        async def work() -> None:
            nonlocal inside
            async with db.lock(name) as lock:
                inside += 1
                assert inside == 1
                fences.append(lock.fence)
                await db.ping()
                inside -= 1

        await together(*[work] * 8)
        assert fences == list(range(1, 9))
        assert await db.count(("$lock", name)) == 1

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", ASYNC)
def test_a_lock_ends_with_its_holder(face: str, real_server: ServerProcess, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        # Its process has died: nobody renews this place.
        async with db.transaction() as tx:
            tx.put(("$lock", name), 41)
            tx.put(("$lock", name, 41), None, ttl=0.05)
        async with db.lock(name) as lock:
            assert lock.fence == 42
        with pytest.raises(ZeroDivisionError):
            async with db.lock(name):
                raise ZeroDivisionError
        async with db.lock(name) as lock:
            assert lock.fence == 44

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", ASYNC)
def test_a_block_that_loses_its_lock_is_cancelled(
    face: str, real_server: ServerProcess, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.LockLost, match="number 1: it has expired"):
            async with db.lock(name, ttl=0.3):
                await db.delete(("$lock", name, 1))
                async with db.subscribe(keys=("nothing", name), after=0) as feed:
                    async for _ in feed:
                        pass

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", ASYNC)
def test_a_transaction_commits_only_while_the_lock_is_held(
    face: str, real_server: ServerProcess, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.lock(name) as lock:
            async with db.transaction() as tx:
                await lock.check(tx)
                tx.put((name, "first"), 1)
            late = db.transaction()
            await lock.check(late)
            late.put((name, "late"), 1)
            await db.delete(("$lock", name, lock.fence))
            with pytest.raises(headwater.Conflict):
                await late.commit()
            with pytest.raises(headwater.LockLost, match="not held any more"):
                async with db.transaction() as tx:
                    await lock.check(tx)
        assert await db.get((name, "first")) == 1
        assert await db.get((name, "late")) is None

    run_on(face, real_server.url, scenario)


def test_threads_hold_a_lock_one_after_the_other(real_server: ServerProcess, name: str) -> None:
    fences: list[int] = []
    inside: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with headwater.connect_blocking(real_server.url) as db, db.lock(name) as lock:
                inside.append(lock.fence)
                assert inside == [lock.fence]
                with db.transaction() as tx:
                    lock.check(tx)
                    tx.put((name, lock.fence), lock.name)
                fences.append(inside.pop())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert fences == [1, 2, 3, 4]


def test_a_thread_is_told_at_the_end_that_it_has_lost_its_lock(
    real_server: ServerProcess, name: str
) -> None:
    lost = pytest.raises(headwater.LockLost)
    with headwater.connect_blocking(real_server.url) as db, lost, db.lock(name, ttl=0.3) as lock:
        db.delete(("$lock", name, 1))
        lock._renewing.join()
        with pytest.raises(headwater.LockLost):
            lock.check()


@pytest.mark.parametrize("ttl", [0, -1, 0.01, float("nan")])
def test_a_wrong_time_to_live_is_refused(real_server: ServerProcess, ttl: Any) -> None:
    wrong = pytest.raises(headwater.InvalidArgument, match="the minimum is")
    with headwater.connect_blocking(real_server.url) as db, wrong:
        db.lock("x", ttl=ttl)
