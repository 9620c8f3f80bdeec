"""Running projections without an event loop: each in a thread, with a connection of its own.

    @db.projection("balances", category="account")
    def balances(tx, event):
        tx.model.add((event.stream,), event.data["amount"])

    with db.run_projections():
        ...

At the end of the block these connections are closed, which ends the threads wherever they wait. A
transaction that was running is rolled back or has committed, and the next run continues there.
"""

import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from headwater.database import Database
from headwater.errors import ConnectionLost
from headwater.projections.host import Host
from headwater.projections.projections import Projections
from headwater.projections.runners import works
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.blocking_runtime import BlockingRuntime
from headwater.transport.stepping import step


class RunningProjections:
    """Projections in threads, which run while a block runs."""

    def __init__(self, db: Database, projections: Projections, names: Sequence[str]) -> None:
        self._ended = threading.Event()
        look_ahead, *kept = works(projections.defined(*names))
        left = _Countdown(len(kept), self._ended)
        self._threads = [
            _Thread(db, look_ahead, self._ended, None),
            *(_Thread(db, work, self._ended, left) for work in kept),
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
        """Wait until a projection fails, and raise its error.

        Returns after *timeout* seconds, or when no projection runs here any more because newer
        versions of all of them run elsewhere.
        """
        self._ended.wait(timeout)
        self._raise_errors()

    def _raise_errors(self) -> None:
        for thread in self._threads:
            if thread.error is not None:
                raise thread.error


class _Countdown:
    """Sets an event when the last of some threads has ended."""

    def __init__(self, count: int, event: threading.Event) -> None:
        self._lock = threading.Lock()
        self._count = count
        self._event = event

    def one_less(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._event.set()


class _Thread(threading.Thread):
    """A thread that runs one projection, with its own connection, until it is stopped."""

    def __init__(
        self,
        db: Database,
        work: Callable[[Host], Awaitable[None]],
        ended: threading.Event,
        left: _Countdown | None,
    ) -> None:
        super().__init__(name="headwater projection", daemon=True)
        self.error: BaseException | None = None
        self._address = db.address
        self._options = db.options
        self._work = work
        self._ended = ended
        self._left = left
        self._stopping = False
        self._runtime = BlockingRuntime()

    def run(self) -> None:
        try:
            step(self._run())
        except BaseException as error:
            if not self._stopping:
                self.error = error
                self._ended.set()
        finally:
            if self._left is not None:
                self._left.one_less()

    async def _run(self) -> None:
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        while not self._stopping:
            try:
                async with Database(self._address, self._options, self._runtime) as db:
                    await self._work(db._host())  # noqa: SLF001
                return
            except ConnectionLost as error:
                # The first connection failed. The work itself handles later losses.
                if not error.retryable:
                    raise
            # A runtime that was closed opens nothing any more. stop() sets the flag first, so it
            # closes the new one, or the loop sees the flag.
            self._runtime = BlockingRuntime()
            if not self._stopping:
                await self._runtime.sleep(backoff.next())

    def stop(self) -> None:
        """Make the thread end as soon as possible."""
        self._stopping = True
        self._runtime.close()

    def wait_until_stopped(self) -> None:
        """Wait until the thread has ended."""
        self.join()
