"""Locks without an event loop: a thread with a connection of its own renews the lock."""

import threading
from datetime import timedelta
from types import TracebackType

from headwater.blocking.transaction import BlockingTransaction
from headwater.database import Database
from headwater.locks.lock import Lock
from headwater.locks.place import Place
from headwater.transport.blocking_runtime import BlockingRuntime
from headwater.transport.stepping import step


class BlockingLock:
    """A lock that is held while a block runs: `with db.lock("report") as lock`.

    A thread cannot be cancelled. If the lock is lost, `check` raises LockLost, and so does the end
    of the block.
    """

    def __init__(self, db: Database, name: str, ttl: timedelta | float) -> None:
        self._place = Place(db._channel, name, ttl)  # noqa: SLF001
        self._renewing = _Renewing(db, self._place, ttl)
        self._lock: Lock | None = None

    def __enter__(self) -> "BlockingLock":
        step(self._place.enter())
        self._renewing.follow(self._place)
        self._renewing.start()
        try:
            step(self._place.wait())
        except BaseException:
            self._renewing.stop()
            self._place.drop()
            raise
        self._lock = Lock(self._place)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._renewing.stop()
        if self._renewing.error is None:
            step(self._place.leave())
        elif error is None:
            raise self._renewing.error

    @property
    def name(self) -> str:
        """The name of the lock."""
        return self._place.name

    @property
    def fence(self) -> int:
        """Its number. The next holder has a higher one."""
        return self._place.number

    def check(self, transaction: BlockingTransaction | None = None) -> None:
        """Raise LockLost if the lock is not held any more.

        With a transaction: let it commit only if the lock is still held then.
        """
        if self._renewing.error is not None:
            raise self._place.lost("it is not held any more") from self._renewing.error
        self._place.renewed = self._renewing.renewed
        if self._place.left() <= 0:
            raise self._place.lost("it was not renewed in time")
        if transaction is not None:
            assert self._lock is not None, "inside of the block"
            step(self._lock.check(transaction._core))  # noqa: SLF001


class _Renewing(threading.Thread):
    """A thread that renews a lock until it is stopped."""

    def __init__(self, db: Database, place: Place, ttl: timedelta | float) -> None:
        super().__init__(name="headwater lock", daemon=True)
        self.error: BaseException | None = None
        self._address = db.address
        self._options = db.options
        self._name = place.name
        self._ttl = ttl
        self._number = 0
        self._renewed = 0.0
        self._own: Place | None = None
        self._stopping = False
        self._runtime = BlockingRuntime()

    def follow(self, place: Place) -> None:
        """Renew this place, which was entered."""
        self._number, self._renewed = place.number, place.renewed

    def run(self) -> None:
        try:
            step(self._renew())
        except BaseException as error:
            if not self._stopping:
                self.error = error

    async def _renew(self) -> None:
        async with Database(self._address, self._options, self._runtime) as db:
            place = Place(db._channel, self._name, self._ttl)  # noqa: SLF001
            place.number, place.renewed = self._number, self._renewed
            self._own = place
            await place.renew()

    @property
    def renewed(self) -> float:
        """When the lock was last renewed, by a clock that all threads share."""
        return self._renewed if self._own is None else self._own.renewed

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self._stopping = True
        self._runtime.close()
        self.join()
