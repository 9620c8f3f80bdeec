"""The items that feeds deliver.

    events    EventBatch   CaughtUp   FellBehind
    keys      Changes      CaughtUp   FellBehind

Each item has a `position`. A later feed can continue after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

from headwater.codecs.codec import Codec
from headwater.codecs.keys_and_values import key_of, value_of
from headwater.errors import Undecodable
from headwater.records import RecordedEvent
from headwater_protocol.keys import KeyTuple
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


class KeyChange:
    """How a commit changed a key.

    Its key and its values are decoded when they are asked for. One that cannot be decoded raises
    Undecodable then, and not before: the other changes of the commit can be read.

    Attributes:
        key: as a tuple.
        old, new: the value before and after the commit. None if the key was, or is, absent.
        existed, exists: whether the key was present before the commit, and is after it.
        expired: whether the key was deleted because its time had come.
    """

    __slots__ = ("_codec", "_entry")

    def __init__(self, codec: Codec, entry: Sequence[Any]) -> None:
        self._codec = codec
        self._entry = entry

    @property
    def key(self) -> KeyTuple:
        return key_of(self._entry[0])

    @property
    def old(self) -> Any:
        return self._value(self._entry[1])

    @property
    def new(self) -> Any:
        return self._value(self._entry[2])

    @property
    def existed(self) -> bool:
        return self._entry[1] is not None

    @property
    def exists(self) -> bool:
        return self._entry[2] is not None

    @property
    def expired(self) -> bool:
        return len(self._entry) > 3

    def _value(self, data: bytes | None) -> Any:
        return None if data is None else value_of(self._codec, self._entry[0], data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyChange) and self._entry == other._entry

    def __hash__(self) -> int:
        return hash(tuple(self._entry))

    def __repr__(self) -> str:
        members = (f"{name}={_shown(self, name)}" for name in ("key", "old", "new"))
        return f"KeyChange({', '.join(members)}, existed={self.existed}, exists={self.exists})"


def _shown(change: KeyChange, name: str) -> str:
    try:
        return repr(getattr(change, name))
    except Undecodable:
        return "(undecodable)"


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one commit in the range, in order of key."""

    commit: CommitNumber
    changes: Sequence[KeyChange]

    @property
    def position(self) -> Position:
        """The commit. Feeds of keys continue after a commit, those of events after a position."""
        return Position(self.commit)


Item: TypeAlias = EventBatch | CaughtUp | FellBehind | Changes
"""What a subscription can deliver."""
