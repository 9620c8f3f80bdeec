"""The records that the client takes and returns: events, commits, snapshots."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Literal, Protocol
from uuid import UUID

from headwater.errors import InvalidArgument, Undecodable
from headwater_protocol.numbers import CommitNumber, Position, StreamVersion
from headwater_protocol.vocabulary.causation import causation_in, correlation_in, without_causation

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

FIRST_VERSION: Final = StreamVersion(1)
"""The version at which a stream begins that was never deleted."""

NO_COMMIT: Final = CommitNumber(0)
"""The state before the first commit."""


def time_of(microseconds: int) -> datetime:
    """The aware time, in UTC, of microseconds since 1970."""
    # Positional arguments, because keywords make this call 50 % slower.
    return _EPOCH + timedelta(0, 0, microseconds)


def microseconds_of(time: datetime, place: str) -> int:
    """Microseconds since 1970 of an aware time.

    Raises:
        InvalidArgument: *time* has no time zone.
    """
    try:
        return (time - _EPOCH) // _MICROSECOND
    except TypeError as error:
        raise InvalidArgument(
            f"{place}: expected a datetime with a time zone, got {time!r:.60}"
        ) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value, and the time at which the key expires. None: it does not."""

    value: Any
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event to be appended to a stream.

    Attributes:
        type: the name of its type, 1 to 256 bytes.
        data: any value that the codec can encode.
        metadata: further data about the event, or None.
        id: a UUID that is unique in the stream. None: it is derived from the id of the transaction,
            and needs no index. Give an id to make appends idempotent across transactions.
        tags: labels for queries, "course:c1" for example: up to 64 different ones of 1 to 256
            bytes each.
        causation: the id of the event that is the cause. None: that of the handler in which the
            event is appended, if it is one; see `headwater.cause`.
        correlation: the chain to which the event belongs: 1 to 243 bytes. None: likewise.
    """

    type: str
    data: Any = None
    metadata: Any = None
    id: UUID | None = None
    tags: Sequence[str] = ()
    causation: UUID | None = None
    correlation: str | None = None

    def __post_init__(self) -> None:
        if type(self.tags) is not tuple:
            if isinstance(self.tags, str) or not isinstance(self.tags, Iterable):
                raise InvalidArgument(f"tags: expected a list, got {self.tags!r:.60}")
            object.__setattr__(self, "tags", tuple(self.tags))


@dataclass
class _Members:
    """The members of a RecordedEvent, for `dataclasses.replace` and its kin."""

    position: Position
    stream: str
    version: StreamVersion
    commit: CommitNumber
    time: datetime
    id: UUID
    type: str
    data: Any
    metadata: Any
    tags: tuple[str, ...] = ()
    erased: bool = False


class RecordedEvent:
    """An event as it is stored in a stream.

    It is a view of what the server sent: each member is made when it is asked for. `data` and
    `metadata` are decoded when one of them is first asked for, and raise Undecodable, with stream,
    version and position in its details, if the codec cannot decode them. All other members of such
    an event can be read.

    Attributes:
        position: in the log of all events.
        stream: the name of its stream.
        version: in the stream; the first event has version 1.
        commit: the commit that appended it.
        time: of that commit.
        id: unique in the stream.
        type: the name of its type.
        data, metadata: decoded by the codec.
        tags: in the order in which they were given, without those of causation and correlation.
        stored_tags: all tags.
        causation: the id of the event that caused this one, or None.
        correlation: the chain to which it belongs, or None.
        erased: whether data and metadata were erased. Then they are None.
    """

    __slots__ = ("_decode", "_decoded", "_row")

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]] = _Members.__dataclass_fields__

    _row: Sequence[Any]
    _decode: "DecodeEvent | None"
    _decoded: tuple[Any, Any] | None

    def __init__(
        self,
        position: Position,
        stream: str,
        version: StreamVersion,
        commit: CommitNumber,
        time: datetime,
        id: UUID,  # noqa: A002 - as the Event's
        type: str,  # noqa: A002 - as the Event's
        data: Any,
        metadata: Any,
        tags: Sequence[str] = (),
        erased: bool = False,
    ) -> None:
        # As a row of the server, but that time and id are not in the form of the protocol.
        stored = None if erased else b""
        self._row = (position, stream, version, commit, time, id, type, stored, b"", tuple(tags))
        self._decode = None
        self._decoded = data, metadata

    def with_parts(self, data: Any, metadata: Any) -> "RecordedEvent":
        """The same event with other data and metadata."""
        return _filled(self._row, None, (data, metadata))

    @property
    def position(self) -> Position:
        position: Position = self._row[0]
        return position

    @property
    def stream(self) -> str:
        stream: str = self._row[1]
        return stream

    @property
    def version(self) -> StreamVersion:
        version: StreamVersion = self._row[2]
        return version

    @property
    def commit(self) -> CommitNumber:
        commit: CommitNumber = self._row[3]
        return commit

    @property
    def time(self) -> datetime:
        time: int | datetime = self._row[4]
        return time_of(time) if isinstance(time, int) else time

    @property
    def id(self) -> UUID:
        identity: bytes | UUID = self._row[5]
        return UUID(bytes=identity) if isinstance(identity, bytes) else identity

    @property
    def type(self) -> str:
        kind: str = self._row[6]
        return kind

    @property
    def data(self) -> Any:
        decoded = self._decoded
        return decoded[0] if decoded is not None else self._parts()[0]

    @property
    def metadata(self) -> Any:
        decoded = self._decoded
        return decoded[1] if decoded is not None else self._parts()[1]

    @property
    def tags(self) -> tuple[str, ...]:
        stored = self._row[9] if len(self._row) > 9 else ()
        return without_causation(stored) if stored else ()

    @property
    def stored_tags(self) -> tuple[str, ...]:
        return tuple(self._row[9]) if len(self._row) > 9 else ()

    @property
    def causation(self) -> UUID | None:
        return causation_in(self.stored_tags)

    @property
    def correlation(self) -> str | None:
        return correlation_in(self.stored_tags)

    @property
    def erased(self) -> bool:
        return self._row[7] is None

    def _parts(self) -> tuple[Any, Any]:
        assert self._decode is not None
        self._decoded = self._decode(self, self._row[7], self._row[8])
        return self._decoded

    def _told(self) -> tuple[Any, ...]:
        """All members but data and metadata."""
        return (
            self.position,
            self.stream,
            self.version,
            self.commit,
            self.time,
            self.id,
            self.type,
            self.stored_tags,
            self.erased,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordedEvent):
            return NotImplemented
        if self._decode is not None and other._decode is not None and self._row == other._row:
            return True  # The same stored event, whether or not it can be decoded.
        if self._told() != other._told():
            return False
        try:
            return bool(self.data == other.data and self.metadata == other.metadata)
        except Undecodable:
            return False

    def __hash__(self) -> int:
        return hash((self.position, self.stream, self.version))

    def __repr__(self) -> str:
        try:
            parts = f"data={self.data!r}, metadata={self.metadata!r}"
        except Undecodable:
            parts = "data and metadata undecodable"
        return (
            f"RecordedEvent(position={self.position}, stream={self.stream!r}, "
            f"version={self.version}, commit={self.commit}, time={self.time!r}, id={self.id!r}, "
            f"type={self.type!r}, {parts}, tags={self.stored_tags!r}, erased={self.erased})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        names = ("stored_tags" if name == "tags" else name for name in self.__dataclass_fields__)
        members = (getattr(self, name) for name in names)
        return RecordedEvent, tuple(members)


DecodeEvent = Callable[[RecordedEvent, bytes | None, bytes], tuple[Any, Any]]
"""Decodes the data and metadata of an event. Data that was erased is None. Raises Undecodable."""


def event_of_row(decode: DecodeEvent, row: Sequence[Any]) -> RecordedEvent:
    """A view of an event that the server sent.

    An event of an older server has nine members, and no tags.
    """
    return _filled(row, decode, None)


def _filled(
    row: Sequence[Any], decode: DecodeEvent | None, decoded: tuple[Any, Any] | None
) -> RecordedEvent:
    # __init__ is for applications, which give the members of an event.
    event = RecordedEvent.__new__(RecordedEvent)
    event._row = row  # noqa: SLF001
    event._decode = decode  # noqa: SLF001
    event._decoded = decoded  # noqa: SLF001
    return event


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit.

    Attributes:
        commit: its number.
        first_position, last_position: of its events; None if it appended none.
        time: when the server sequenced it.
        versions: the new version of each stream that it appended to.
    """

    commit: CommitNumber
    first_position: Position | None
    last_position: Position | None
    time: datetime
    versions: Mapping[str, StreamVersion] = field(hash=False)


class Committing(Protocol):
    """Anything that has a commit: an Executed, a Decided, a transaction."""

    @property
    def committed(self) -> Committed | None:
        """The commit. None if nothing was written."""
        ...


def position_of(place: int | Committed | Committing | None) -> int | None:
    """A position, or that of the last event of a commit. None if it appended no events.

    Raises:
        InvalidArgument: it is none of these.
    """
    if place is None or isinstance(place, int):
        return place
    if isinstance(place, Committed):
        return place.last_position
    if not hasattr(type(place), "committed"):
        raise InvalidArgument(f"expected a position or a commit, got {place!r:.60}")
    return position_of(place.committed)


@dataclass(frozen=True, slots=True)
class TransactionStatus:
    """The status of a transaction. `committed` is set if the state is "committed"."""

    state: Literal["committed", "aborted", "open", "forgotten"]
    committed: Committed | None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One entry of the commit log."""

    commit: CommitNumber
    transaction: UUID
    time: datetime
    user: str | None
    first_position: Position | None
    events: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a stream at a version of it."""

    version: StreamVersion
    state: Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of `load`: the newest usable snapshot of a stream, and the events after it.

    Attributes:
        version: of the stream; 0 if there is no such stream, or none since it was deleted. So it
            is what an append may expect.
        snapshot: None if there is none of this name and schema.
        events: the events after the snapshot; without a snapshot, all visible events.
        begins: the version at which the stream begins: 1, or one above the version at which it was
            last deleted.
        commit: the commit at which it was read.
        more: whether events are missing at the end, because they did not fit into the answer. Only
            the `load` of a batch leaves them out.
    """

    version: StreamVersion
    snapshot: Snapshot | None
    events: list[RecordedEvent]
    begins: StreamVersion = FIRST_VERSION
    commit: CommitNumber = NO_COMMIT
    more: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether no event is missing: each is in `events` or is covered by the snapshot."""
        seen = self.begins - 1 if self.snapshot is None else self.snapshot.version
        return not self.version or len(self.events) == self.version - seen


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A stored snapshot, with its stream, name and schema."""

    stream: str
    name: str
    schema: int
    version: StreamVersion
    state: Any


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup: its newest commit, the position of its newest event, its size in bytes."""

    commit: CommitNumber
    position: Position
    size: int


def committed_from(payload: Sequence[Any]) -> Committed:
    """The commit in the answer of the server."""
    commit, time, first, last, versions = payload
    return Committed(commit, first, last, time_of(time), versions)
