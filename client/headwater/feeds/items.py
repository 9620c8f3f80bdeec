"""The items that feeds deliver.

    events    EventBatch   CaughtUp   FellBehind
    keys      Changes      CaughtUp   FellBehind

Each item has a `position`. A later feed can continue after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from headwater.reads.key_changes import KeyChange
from headwater.records import RecordedEvent
from headwater_protocol.numbers import CommitNumber, Position


class EventBatch(Sequence[RecordedEvent]):
    """Events that a subscription delivers together, in order. There is at least one."""

    __slots__ = ("_events",)

    def __init__(self, events: Sequence[RecordedEvent]) -> None:
        assert events, "an empty batch"
        self._events = tuple(events)

    @property
    def position(self) -> Position:
        """The position of the last event. Continue after it once the batch is processed."""
        return self._events[-1].position

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordedEvent]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | Sequence[RecordedEvent]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[RecordedEvent]:
        return iter(self._events)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EventBatch) and self._events == other._events

    def __hash__(self) -> int:
        return hash(tuple(event.position for event in self._events))

    def __repr__(self) -> str:
        return f"EventBatch({len(self)} events to position {self.position})"


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The subscription has delivered everything up to the position. What follows is new.

    It comes again now and then while nothing that the subscription wants happens.
    """

    position: Position


@dataclass(frozen=True, slots=True)
class FellBehind:
    """The subscription was too slow and reads from the log again. No event is skipped."""

    position: Position


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one commit in the range, in order of key."""

    commit: CommitNumber
    changes: Sequence[KeyChange]

    @property
    def position(self) -> Position:
        """The commit. Feeds of keys continue after a commit, those of events after a position."""
        return Position(self.commit)


EventItem: TypeAlias = EventBatch | CaughtUp | FellBehind
KeyItem: TypeAlias = Changes | CaughtUp | FellBehind
Item: TypeAlias = EventItem | KeyItem
"""What a subscription can deliver."""
