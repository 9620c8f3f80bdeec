"""Failures of handlers: which errors count, how often an event was tried, and how it is reported.

    a handler raises --> can its transaction continue?  --yes--> a failed attempt of its event
                                                        --no---> not the event's fault: repeat it

Every exception of a handler counts as a failed attempt of its event, including retryable errors,
errors of another database, and a CancelledError although nobody cancelled the task. There are two
exceptions: the handler's own transaction cannot continue, for example because the connection was
lost, and the task itself is cancelled. If the transaction ended because the handler took too long,
that counts.
"""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headwater.errors import (
    AuthenticationFailed,
    CommitUnknown,
    ConnectionLost,
    HeadwaterError,
    HistoryGone,
    InternalError,
    PermissionDenied,
    ProtocolError,
    TransactionForgotten,
    TransactionGone,
    UnknownOperation,
)

log = logging.getLogger("headwater.projections")

REASON_SIZE_MAX: Final = 2000
"""Characters to store of the reason of a failure: the error and its place, no whole traceback."""

ATTEMPT_PAUSE_FIRST: Final = 0.05
"""Seconds before a failed event is tried again. The other streams wait meanwhile."""

ATTEMPT_PAUSE_MAX: Final = 0.5
"""The longest such pause in seconds, for the same reason."""

NOT_THE_EVENTS: Final = (
    AuthenticationFailed,
    CommitUnknown,
    ConnectionLost,
    HistoryGone,
    InternalError,
    PermissionDenied,
    ProtocolError,
    TransactionForgotten,
    UnknownOperation,
)
"""Errors of a transaction that are not the fault of the event that it handles."""

Row = Sequence[Any]
"""An event in the form of the protocol."""


class EventFailed(Exception):
    """A handler failed.

    Attributes:
        index: of the event that failed, among those that the handler was given. None: unknown.
        cause: the exception.
    """

    def __init__(self, index: int | None, cause: BaseException) -> None:
        super().__init__(index, cause)
        self.index = index
        self.cause = cause


def is_of_the_transaction(error: HeadwaterError) -> bool:
    """Whether an error of a handler's transaction says nothing about the event.

    TransactionGone counts against the event: the handler took longer than a transaction may.
    """
    if isinstance(error, TransactionGone):
        return False
    return error.retryable or isinstance(error, NOT_THE_EVENTS)


@dataclass(slots=True)
class Failure:
    """How often an event was tried, and how it failed last."""

    attempts: int
    error: BaseException

    @property
    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        return float(min(ATTEMPT_PAUSE_FIRST * 2 ** (self.attempts - 1), ATTEMPT_PAUSE_MAX))


class Failures:
    """The events of a build that failed and were not parked yet.

    They are kept in memory while a process follows the build, also across lost connections.
    """

    def __init__(self) -> None:
        self._failed: dict[tuple[int, int], Failure] = {}

    def count(self, build: int, row: Row, error: BaseException) -> Failure:
        """Count a failed attempt."""
        key = (build, row[0])
        failure = self._failed.get(key)
        if failure is None:
            failure = self._failed[key] = Failure(0, error)
        failure.attempts += 1
        failure.error = error
        return failure

    def find(self, build: int, row: Row) -> Failure | None:
        """The failure of an event, if it failed before."""
        return self._failed.get((build, row[0])) if self._failed else None

    def forget(self, build: int, row: Row) -> None:
        """Forget an event that was handled or parked."""
        self._failed.pop((build, row[0]), None)


def tell(projection: str, row: Row, error: BaseException, outcome: str) -> None:
    """Log that a handler failed, with the event and the traceback."""
    log.warning(
        "projection %s: event %s of stream %s, type %s, at position %s failed: %s; %s",
        projection,
        row[2],
        row[1],
        row[6],
        row[0],
        message_of(error),
        outcome,
        exc_info=error,
    )


def reason_of(error: BaseException) -> str:
    """An error, and the place where it was raised, in a few lines."""
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f" (at {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    )
    reason = message_of(error)[: REASON_SIZE_MAX - len(place)] + place
    # A message that cannot be stored must not prevent that the stream is parked.
    return reason.encode(errors="replace").decode()


def message_of(error: BaseException) -> str:
    """The type of an error and its message, even if its __str__ raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}, which cannot be shown"
