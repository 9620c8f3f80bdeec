"""The records that the client takes and returns: events, commits, snapshots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from headwater.errors import InvalidArgument
from headwater_protocol.numbers import CommitNumber, Position, StreamVersion

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
    """

    type: str
    data: Any = None
    metadata: Any = None
    id: UUID | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if type(self.tags) is not tuple:
            if isinstance(self.tags, str):
                raise InvalidArgument(f"tags: expected a list, got {self.tags!r:.60}")
            object.__setattr__(self, "tags", tuple(self.tags))


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as it is stored in a stream.

    Attributes:
        position: in the log of all events.
        stream: the name of its stream.
        version: in the stream; the first event has version 1.
        commit: the commit that appended it.
        time: of that commit.
        id: unique in the stream.
        type: the name of its type.
        data, metadata: decoded by the codec.
        tags: in the order in which they were given.
        erased: whether data and metadata were erased. Then they are None.
    """

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
    """

    version: StreamVersion
    snapshot: Snapshot | None
    events: list[RecordedEvent]
    begins: StreamVersion = FIRST_VERSION
    commit: CommitNumber = NO_COMMIT

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
class Pong:
    """The newest commit, and the time of the server's clock."""

    commit: CommitNumber
    time: datetime


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
