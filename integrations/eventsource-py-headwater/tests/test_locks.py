"""Locks of several managers, which are several processes to the server, and locks that are lost."""

import asyncio
from typing import Any

import pytest
from eventsource.domain.exceptions import LockAcquisitionError, LockNotHeldError
from eventsource_headwater import HeadwaterLockManager

import headwater

pytestmark = pytest.mark.anyio


@pytest.fixture
def managers(database: headwater.Database, space: str) -> list[HeadwaterLockManager]:
    return [HeadwaterLockManager(database, space, ttl=30) for _ in range(3)]


async def test_one_manager_at_a_time_has_a_lock(managers: list[HeadwaterLockManager]) -> None:
    inside = 0

    async def work(manager: HeadwaterLockManager) -> None:
        nonlocal inside
        for _ in range(5):
            async with manager.acquire("k"):
                inside += 1
                await manager.is_held("k")  # A moment in which others could enter.
                assert inside == 1
                inside -= 1

    await asyncio.gather(*map(work, managers))
    assert all(manager.held_lock_count == 0 for manager in managers)


async def test_waiting_ends_after_the_timeout(managers: list[HeadwaterLockManager]) -> None:
    first, second, _ = managers
    async with first.acquire("k"):
        assert await second.try_acquire("k") is None
        with pytest.raises(LockAcquisitionError):
            async with second.acquire("k", timeout=0.01):
                raise AssertionError("both have it")
        with pytest.raises(LockNotHeldError):
            await second.release("k")
    assert await second.try_acquire("k") is not None
    await second.release_all()


async def test_the_block_of_a_lost_lock_is_cancelled(
    database: headwater.Database, space: str
) -> None:
    manager = HeadwaterLockManager(database, space, ttl=0.3)
    other = HeadwaterLockManager(database, space, ttl=30)
    with pytest.raises(LockNotHeldError):
        async with manager.acquire("k"):
            # As if the server had let it expire, and another process had taken it.
            await database.delete(manager._key("k"))
            assert await other.try_acquire("k") is not None
            await asyncio.Event().wait()
    assert manager.held_lock_count == 0
    assert await other.release_all() == 1


async def test_releasing_a_lock_that_another_has_does_not_take_it_away(
    managers: list[HeadwaterLockManager], database: headwater.Database
) -> None:
    first, second, _ = managers
    assert await first.try_acquire("k") is not None
    await database.delete(first._key("k"))
    assert await second.try_acquire("k") is not None
    with pytest.raises(LockNotHeldError):
        await first.release("k")
    assert await second.is_held("k")
    assert await first.release_all() == 0
    assert await second.release_all() == 1


async def test_a_lock_is_renewed_while_it_is_held(database: headwater.Database, space: str) -> None:
    manager = HeadwaterLockManager(database, space, ttl=0.3)
    async with manager.acquire("k"):
        seen: list[Any] = []
        async with database.subscribe(
            keys=manager._key("k"), after=(await database.ping()).commit
        ) as feed:
            async for item in feed:
                if isinstance(item, headwater.Changes):
                    seen += item.changes
                if len(seen) == 3:
                    break
        assert all(change.exists for change in seen)
    assert not await manager.is_held("k")
