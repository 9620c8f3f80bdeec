"""Items: what the feeds deliver.

    events    EventBatch   CaughtUp   FellBehind
    keys      Changes      CaughtUp   FellBehind

Each has a `position`, where a later feed goes on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

from headwater.records import RecordedEvent
from headwater_protocol.keys import KeyTuple
from headwater_protocol.numbers import CommitNumber, Position


class EventBatch(Sequence[RecordedEvent]):
    """Events that a subscription delivered together, in order; never empty."""

    __slots__ = ("_events",)

    def __init__(self, events: Sequence[RecordedEvent]) -> None:
        assert events, "an empty batch"
        self._events = tuple(events)

    @property
    def position(self) -> Position:
        """The position of the last event: where to go on once the batch is dealt with."""
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
    """A subscription delivered all that there was; what follows is live."""

    position: Position


@dataclass(frozen=True, slots=True)
class FellBehind:
    """A subscription could not follow and reads history again. Nothing is left out."""

    position: Position


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a commit did to a key.

    Attributes:
        old, new: the value before and after; None if the key was, or is, absent.
        existed, exists: whether it was there before, and is after.
    """

    key: KeyTuple
    old: Any
    new: Any
    existed: bool
    exists: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one commit in the range, in order of key."""

    commit: CommitNumber
    changes: Sequence[KeyChange]

    @property
    def position(self) -> Position:
        """The commit: a feed's place is one, where a subscription's is a position."""
        return Position(self.commit)


Item: TypeAlias = EventBatch | CaughtUp | FellBehind | Changes
"""What a subscription can deliver."""
