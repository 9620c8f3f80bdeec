"""Projections without an event loop: each runs in a thread, with a connection of its own.

    @db.projection("balances", category="account")
    def balances(tx, event):
        tx.model.add((event.stream,), event.data["amount"])

    with db.run_projections():
        ...

Ending the block closes these connections, which ends the threads wherever they wait. What was
under way then is rolled back or committed whole, and the next run goes on from there.
"""

import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final

from headwater.database import Database
from headwater.errors import ConnectionLost
from headwater.projections.host import Host
from headwater.projections.projections import (
    Projections,
    works,
)
from headwater.transport.address import Address
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.blocking_runtime import BlockingRuntime
from headwater.transport.connection import Connection
from headwater.transport.runtime import Greeting, Options
from headwater.transport.stepping import step

JOIN_S: Final = 0.02
"""Seconds between two looks whether a thread has ended: it may have opened another connection
just when the last one was closed."""


class RunningProjections:
    """Projections in threads, as long as a block runs."""

    def __init__(self, db: Database, projections: Projections, names: Sequence[str]) -> None:
        self._failed = threading.Event()
        self._threads = [
            _Thread(db, work, self._failed) for work in works(projections.defined(*names))
        ]

    def __enter__(self) -> "RunningProjections":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.wait_until_stopped()
        if error is None:
            self._raise_errors()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until one of them fails, and raise its error; or for so many seconds."""
        self._failed.wait(timeout)
        self._raise_errors()

    def _raise_errors(self) -> None:
        for thread in self._threads:
            if thread.error is not None:
                raise thread.error


class _Thread(threading.Thread):
    """One work, with a connection of its own, until it is stopped."""

    def __init__(
        self,
        db: Database,
        work: Callable[[Host], Awaitable[None]],
        failed: threading.Event,
    ) -> None:
        super().__init__(name="headwater projection", daemon=True)
        self.error: BaseException | None = None
        self._address = db.address
        self._options = db.options
        self._work = work
        self._failed = failed
        self._runtime = _StoppableRuntime()

    def run(self) -> None:
        try:
            step(self._run())
        except BaseException as error:
            if not self._runtime.stopping.is_set():
                self.error = error
                self._failed.set()

    async def _run(self) -> None:
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                async with Database(self._address, self._options, self._runtime) as db:
                    await self._work(db._host())  # noqa: SLF001
                return
            except ConnectionLost as error:
                # Of the first connection; the work deals with those that follow.
                if not error.retryable:
                    raise
            await self._runtime.sleep(backoff.next())

    def stop(self) -> None:
        """Let it end as soon as it can."""
        self._runtime.stop()

    def wait_until_stopped(self) -> None:
        """Return when it has ended."""
        while self.is_alive():
            self._runtime.stop()
            self.join(JOIN_S)


class _StoppableRuntime(BlockingRuntime):
    """One that another thread can wake for good, wherever it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.stopping = threading.Event()

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        if self.stopping.is_set():
            raise ConnectionLost("the projections were stopped", retryable=False)
        return await super().open(address, options, greet)

    async def sleep(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def stop(self) -> None:
        self.stopping.set()
        for connection in list(self._connections):
            connection.close()
