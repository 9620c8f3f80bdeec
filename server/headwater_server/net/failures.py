"""Failures: which exceptions end the process, and what clients are told before it ends.

    HeadwaterError            the answer to one request, or the end of one feed
    OSError in a plain read   the same, as internal_error; the server's log has the reason
    OSError in a commit       the outcome is unknown, until the client asks (failed_requests.py)
    anything else             a bug in the server, such as a failed assertion: the process ends

After a bug, the process cannot rely on its memory. So it writes no commit group and serves no
request any more. Clients that wait for a commit are told that its outcome is unknown, with the
transaction's id. The restart reads the log and decides.

Every task of the server runs under `guard`. Code that must first answer a client catches the
exception itself, answers, and calls `end_process`.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

_log = structlog.get_logger(__name__)

SHUTDOWN_NOTICE_S: Final = 0.1
"""Seconds for the connections to send the last answers."""


class CommitFailed(Exception):
    """A commit could not be made durable. The process must end; the restart decides."""


class Reopen(Exception):
    """The engine must be closed and opened again; the message says why.

    A new copy of the leader is complete, or this node of a cluster leads no more.

    Attributes:
        resigned: it gave its lease back, so that another node leads.
    """

    def __init__(self, why: str, *, resigned: bool = False) -> None:
        super().__init__(why)
        self.resigned = resigned


class Failures:
    """Ends the process after an exception that no request can answer for.

    Attributes:
        failed: the process is about to end.
    """

    def __init__(self) -> None:
        self.failed = False
        self._error: Exception | None = None
        self._stop_serving: Callable[[], None] = _nothing
        self._wanted = trio.lowlevel.ParkingLot()

    def on_failure(self, stop_serving: Callable[[], None]) -> None:
        """Call *stop_serving* once, before the process ends."""
        self._stop_serving = stop_serving

    def end_process(self, error: Exception, what: str) -> None:
        """Stop serving, tell clients, and make `run` raise. *what* names what failed."""
        if self.failed:
            # Report the first failure; this one may be its consequence.
            _log.critical("another failure while the process ends", where=what, exc_info=error)
            return
        self.failed = True
        _log.critical("a failure of the server; the process ends", where=what, exc_info=error)
        self._error = error
        if isinstance(error, OSError):
            self._error = CommitFailed(f"{what} failed: {error}")
            self._error.__cause__ = error
        self._stop_serving()
        self._wanted.unpark_all()

    async def guard(self, task: Callable[[], Awaitable[None]], what: str) -> None:
        """Run a task of the server; if it raises, end the process in an orderly way.

        Raises:
            CommitFailed: clients were told already.
        """
        try:
            await task()
        except (CommitFailed, Reopen):
            raise
        except Exception as error:
            self.end_process(error, what)
            await trio.sleep_forever()

    async def run(self) -> None:
        """Wait for a failure.

        Raises:
            CommitFailed: the disk failed.
            Exception: whatever else `end_process` was called with.
        """
        while self._error is None:
            await self._wanted.park()
        with trio.CancelScope(shield=True):
            await trio.sleep(SHUTDOWN_NOTICE_S)
        raise self._error


def _nothing() -> None:
    """Do nothing: there are no clients yet."""
