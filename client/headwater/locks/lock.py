"""Locks: one process at a time, in the order in which they asked.

    async with db.lock("nightly report", ttl=30) as lock:
        await make_the_report()                 the lock is renewed meanwhile
        async with db.transaction() as tx:
            await lock.check(tx)                commits only if the lock is still held
            tx.put("report", ...)

A lock ends with its holder: when the block ends, or its time to live after the process has died. If
it cannot be renewed in time, the block is cancelled and LockLost is raised.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Final

from headwater.locks.place import TTL_DEFAULT, Place
from headwater.transactions.transaction import Transaction
from headwater.transport.channel import Channel
from headwater.transport.tasks import beside

_ABSENT: Final = object()


class Lock:
    """A lock that this process holds, while its block runs.

    Attributes:
        name: of the lock.
        fence: its number. The next holder has a higher one, so whatever remembers the highest
            number that it has seen can refuse a holder that is late.
    """

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self.fence = place.number
        self._place = place

    async def check(self, transaction: Transaction) -> None:
        """Let a transaction commit only if the lock is still held then.

        In a serializable transaction this is exact. With isolation "snapshot" the lock is checked
        as of the transaction's view.

        Raises:
            LockLost: it is not held any more.
        """
        if await transaction.get(self._place.key, default=_ABSENT) is _ABSENT:
            raise self._place.lost("it is not held any more")


class Locking(ABC):
    """The locks of a database."""

    @property
    @abstractmethod
    def _channel(self) -> Channel:
        """The channel to the server."""

    def lock(
        self, name: str, *, ttl: timedelta | float = TTL_DEFAULT
    ) -> AbstractAsyncContextManager[Lock]:
        """Hold a lock while a block runs: `async with db.lock("report") as lock`.

        The block begins when all who asked before have left or died. If the lock cannot be renewed
        in time, the block is cancelled, and LockLost is raised.

        Args:
            name: of the lock. All users of the database share it.
            ttl: the time after which others get the lock if this process dies. A number is in
                seconds.
        """
        return held(Place(self._channel, name, ttl))


@asynccontextmanager
async def held(place: Place) -> AsyncIterator[Lock]:
    """Hold a lock while a block runs."""
    try:
        await place.enter()
        async with beside([place.renew, place.watch]):
            await place.wait()
            yield Lock(place)
    except BaseException:
        # A task that is cancelled cannot wait for an answer.
        place.drop()
        raise
    await place.leave()
