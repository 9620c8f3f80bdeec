"""Consuming without an event loop: each handler runs in a thread, with a connection of its own."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from headwater.blocking.handlers import in_blocking_transaction
from headwater.blocking.transaction import BlockingTransaction
from headwater.consumers.consuming import Handler, check_consume, consume_alone
from headwater.database import Database
from headwater.errors import HeadwaterError, NoSuchGroup
from headwater.groups.extending import Working
from headwater.records import RecordedEvent
from headwater.transport.blocking_runtime import BlockingRuntime
from headwater.transport.stepping import step

_LOOK_S: Final = 1.0
"""Seconds after which the caller's thread looks around, so that a signal is noticed."""


def consume_in_threads(
    db: Database,
    group: str,
    handler: Callable[[BlockingTransaction, RecordedEvent], None],
    *,
    concurrency: int,
    until_caught_up: bool,
) -> None:
    """See `consume`. Returns, or raises, once all threads have ended."""
    check_consume(group, concurrency)
    ended = threading.Event()
    working = Working(group)
    threads = [
        _Consumer(db, working, in_blocking_transaction(handler), ended, until_caught_up)
        for _ in range(concurrency)
    ]
    extender = _Extender(db, working)
    for each in (*threads, extender):
        each.start()
    try:
        while any(thread.is_alive() for thread in threads):
            ended.wait(_LOOK_S)
            ended.clear()
            if any(thread.error is not None for thread in threads):
                break
    finally:
        for thread in threads:
            thread.stop()
        extender.stop()
        for each in (*threads, extender):
            each.join()
    for thread in threads:
        if thread.error is not None:
            raise thread.error


class _Consumer(threading.Thread):
    """A thread that consumes one event at a time, until it is stopped."""

    def __init__(
        self,
        db: Database,
        working: Working,
        handler: Handler,
        ended: threading.Event,
        until_caught_up: bool,
    ) -> None:
        super().__init__(name="headwater consumer", daemon=True)
        self.error: BaseException | None = None
        self._address = db.address
        self._options = db.options
        self._working = working
        self._handler = handler
        self._ended = ended
        self._until_caught_up = until_caught_up
        self._stopping = False
        self._runtime = BlockingRuntime()

    def run(self) -> None:
        try:
            step(self._consume())
        except BaseException as error:
            if not self._stopping:
                self.error = error
        finally:
            self._ended.set()

    async def _consume(self) -> None:
        async with Database(self._address, self._options, self._runtime) as db:
            await consume_alone(
                db._channel,  # noqa: SLF001
                db._codec,  # noqa: SLF001
                self._working,
                self._handler,
                until_caught_up=self._until_caught_up,
            )

    def stop(self) -> None:
        """Make the thread end as soon as possible."""
        self._stopping = True
        self._runtime.close()


class _Extender(threading.Thread):
    """A thread that extends the leases of what the others work on, until it is stopped.

    A handler blocks the thread and the connection of its consumer, so this one has its own.
    """

    def __init__(self, db: Database, working: Working) -> None:
        super().__init__(name="headwater leases", daemon=True)
        self._address = db.address
        self._options = db.options
        self._working = working
        self._stopped = threading.Event()
        self._runtime = BlockingRuntime()

    def run(self) -> None:
        # The consumers tell what is wrong: this one has nothing to say of its own.
        with suppress(HeadwaterError):
            step(self._extend())

    async def _extend(self) -> None:
        async with Database(self._address, self._options, self._runtime) as db:
            with suppress(NoSuchGroup):
                while not self._stopped.is_set():
                    await self._working.extend(db._channel)  # noqa: SLF001
                    self._stopped.wait(self._working.pause_s)

    def stop(self) -> None:
        """Make the thread end as soon as possible."""
        self._stopped.set()
        self._runtime.close()
