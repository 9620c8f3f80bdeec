"""The lock manager: a key that expires, with a token of its holder.

    acquire:  put_if_absent(key, token, ttl)      whoever waits follows the key's changes
    renew:    compare_and_set(key, token, token, ttl), after a third of the time to live
    release:  delete, on the condition that the key still has the token

The key expires by the time of the server, so a lock of a process that died is free after its time
to live, and the clocks of the processes do not matter. If a renewal finds that the lock is lost,
the block of `acquire` is cancelled, and LockNotHeldError is raised out of it.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from eventsource.domain.exceptions import LockAcquisitionError, LockNotHeldError
from eventsource.ports.locks import LockInfo

import headwater


@dataclass
class _Held:
    token: bytes
    renewal: asyncio.Task[None] | None = None
    lost: bool = False
    on_loss: list[Callable[[], object]] = field(default_factory=list)


class HeadwaterLockManager:
    """Locks among all processes that use the space.

    Args:
        database: an open database of this event loop.
        space: the first member of all keys.
        ttl: seconds after which the lock of a process that died is free.
    """

    def __init__(
        self, database: headwater.Database, space: str = "eventsource", *, ttl: float = 30.0
    ) -> None:
        self._db = database
        self._space = space
        self._ttl = ttl
        self._held: dict[str, _Held] = {}

    @property
    def held_lock_count(self) -> int:
        return len(self._held)

    def _key(self, key: str) -> tuple[str, str, str]:
        return self._space, "lock", key

    async def try_acquire(self, key: str) -> LockInfo | None:
        """Take a lock if it is free; the caller releases it. None if somebody has it."""
        held = _Held(secrets.token_bytes(16))
        if not await self._db.put_if_absent(self._key(key), held.token, ttl=self._ttl):
            return None
        self._held[key] = held
        held.renewal = asyncio.create_task(self._renew(key, held))
        digest = hashlib.sha256(key.encode()).digest()
        return LockInfo(
            key=key,
            lock_id=int.from_bytes(digest[:8], "big") >> 1,
            acquired_at=datetime.now(UTC),
            holder_id=held.token.hex(),
        )

    async def _renew(self, key: str, held: _Held) -> None:
        try:
            while True:
                await asyncio.sleep(self._ttl / 3)
                async with asyncio.timeout(self._ttl / 3):
                    renewed = await self._db.compare_and_set(
                        self._key(key), held.token, held.token, ttl=self._ttl
                    )
                if not renewed:
                    break
        except (TimeoutError, headwater.HeadwaterError):
            pass  # The next holder may be about to get it, so it counts as lost.
        held.lost = True
        if self._held.get(key) is held:
            del self._held[key]
        for tell in held.on_loss:
            tell()

    async def release(self, key: str) -> None:
        """Give a lock back.

        Raises:
            LockNotHeldError: this manager does not hold it, or has lost it.
        """
        held = self._held.pop(key, None)
        if held is None:
            raise LockNotHeldError(key)
        if held.renewal is not None:
            held.renewal.cancel()
        batch = self._db.batch()
        batch.require(self._key(key), held.token)
        batch.delete(self._key(key))
        try:
            await self._db.execute(batch)
        except headwater.ConditionFailed:
            raise LockNotHeldError(key) from None

    async def is_held(self, key: str) -> bool:
        return await self._db.count(self._key(key)) > 0

    async def release_all(self) -> int:
        """Give all locks of this manager back. Returns how many it still held."""
        released = 0
        for key in [*self._held]:
            try:
                await self.release(key)
            except LockNotHeldError:
                continue
            released += 1
        return released

    async def _wait(self, key: str) -> LockInfo:
        while True:
            since = (await self._db.ping()).commit
            if info := await self.try_acquire(key):
                return info
            async with self._db.subscribe(keys=self._key(key), after=since) as feed:
                async for item in feed:
                    if isinstance(item, headwater.Changes) and not item.changes[-1].exists:
                        break

    @asynccontextmanager
    async def acquire(
        self,
        key: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the name is the port's
        retry_interval: float = 0.1,  # noqa: ARG002 - nothing is polled
    ) -> AsyncIterator[LockInfo]:
        """Wait for a lock, and hold it for the block.

        Raises:
            LockAcquisitionError: it was not free within *timeout* seconds.
            LockNotHeldError: it was lost during the block, which was cancelled.
        """
        try:
            async with asyncio.timeout(timeout):
                info = await self._wait(key)
        except TimeoutError as error:
            reason = f"Timeout after {timeout}s"
            raise LockAcquisitionError(key=key, reason=reason, timeout=timeout) from error
        held = self._held[key]
        task = asyncio.current_task()
        assert task is not None
        held.on_loss.append(task.cancel)
        try:
            yield info
        except asyncio.CancelledError:
            if held.lost and task.uncancel() == 0:
                raise LockNotHeldError(key) from None
            raise
        finally:
            held.on_loss.clear()
            if self._held.get(key) is held:
                await self.release(key)
