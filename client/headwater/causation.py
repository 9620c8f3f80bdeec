"""What causes the events that are appended now.

    event 1   Ordered      --handler-->   event 5   Paid       causation 1, correlation 1
                                                |
                                                '--handler-->   event 9   Shipped
                                                                causation 5, correlation 1

A handler of a consumer group or of a projection is called with its event as the cause, so what it
appends carries the ids, without a line of code. `cause` sets it for any other code. It is a context
variable: it follows a task, and tasks and threads that are started with a copy of the context.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from headwater.errors import InvalidArgument
from headwater.records import Event, RecordedEvent
from headwater_protocol.limits import TAG_SIZE_MAX
from headwater_protocol.vocabulary.causation import (
    CAUSATION,
    CORRELATION,
    causation_tag,
    correlation_tag,
)

CORRELATION_SIZE_MAX = TAG_SIZE_MAX - len(CORRELATION)
"""UTF-8 bytes of a correlation: a tag has room for them."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why events are appended.

    Attributes:
        causation: the id of the event that is being handled, or None.
        correlation: the chain, or None.
    """

    causation: UUID | None = None
    correlation: str | None = None


_current: ContextVar[Cause | None] = ContextVar("headwater_cause", default=None)


def current_cause() -> Cause | None:
    """The cause that appended events get now. None: they get none."""
    return _current.get()


def cause_of(event: RecordedEvent) -> Cause:
    """The cause of what follows from an event: its id, and its chain, which may begin with it."""
    return Cause(event.id, event.correlation or str(event.id))


@contextmanager
def cause(event: RecordedEvent | None = None, *, correlation: str | None = None) -> Iterator[None]:
    """Give the events that are appended in a block this cause.

    `with cause(event):` in a handler that the library does not call; `with cause(correlation=…):`
    where a chain begins, with the id of a request for example; `with cause():` for none.

    Args:
        event: the event that is being handled.
        correlation: the chain. None: that of the event.

    Raises:
        InvalidArgument: it is no event, or no correlation.
    """
    if event is None:
        given = None if correlation is None else Cause(None, checked_correlation(correlation))
    elif not isinstance(event, RecordedEvent):
        raise InvalidArgument(f"cause: expected a RecordedEvent, got {event!r:.60}")
    else:
        given = cause_of(event)
        if correlation is not None:
            given = Cause(given.causation, checked_correlation(correlation))
    token = _current.set(given)
    try:
        yield
    finally:
        _current.reset(token)


def checked_correlation(correlation: str) -> str:
    """A correlation, if it can be one.

    Raises:
        InvalidArgument: it is no text, is empty, or is too long.
    """
    # Checked at run time too: it often comes from elsewhere.
    size = len(correlation.encode(errors="replace")) if type(correlation) is str else 0
    if not 1 <= size <= CORRELATION_SIZE_MAX:
        raise InvalidArgument(
            f"correlation: expected a str of 1 to {CORRELATION_SIZE_MAX} UTF-8 bytes, got "
            f"{correlation!r:.60}"
        )
    return correlation


def tags_with_cause(event: Event, now: Cause | None) -> list[str]:
    """The tags of an event to append: its own, and those of its cause.

    What the event itself says comes first, also as a tag: a copy of a stored event keeps its cause.
    """
    tags = list(event.tags)
    if any(tag.startswith((CAUSATION, CORRELATION)) for tag in tags):
        return tags
    causation, correlation = event.causation, event.correlation
    if now is not None:
        causation = now.causation if causation is None else causation
        correlation = now.correlation if correlation is None else correlation
    if causation is not None:
        if not isinstance(causation, UUID):
            raise InvalidArgument(f"causation: expected a UUID, got {causation!r:.60}")
        tags.append(causation_tag(causation))
    if correlation is not None:
        tags.append(correlation_tag(checked_correlation(correlation)))
    return tags
