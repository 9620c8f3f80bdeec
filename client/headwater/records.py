"""What the database takes and gives: events, commits, snapshots, pages of a feed."""

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
"""At which a stream begins that never was deleted."""


def time_of(microseconds: int) -> datetime:
    """The aware time, in UTC, of microseconds since 1970."""
    # By place: by name it takes half as long again.
    return _EPOCH + timedelta(0, 0, microseconds)


def microseconds_of(time: datetime, place: str) -> int:
    """Microseconds since 1970 of an aware time.

    Raises:
        InvalidArgument: *time* has no time zone, so it names no moment.
    """
    try:
        return (time - _EPOCH) // _MICROSECOND
    except TypeError as error:
        raise InvalidArgument(f"{place}: an aware datetime is wanted, not {time!r:.60}") from error


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, to be appended to a stream.

    Attributes:
        type: its name, 1 to 256 bytes.
        data: what the codec can encode.
        metadata: likewise, about the event rather than of it; None: nothing.
        id: unique in its stream. None: one is derived from the transaction's id, which costs
            no index. Give one to make an append idempotent across transactions.
        tags: what the event concerns, "course:c1" for example, for queries; up to 64, each of 1
            to 256 bytes, none twice.
    """

    type: str
    data: Any = None
    metadata: Any = None
    id: UUID | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if type(self.tags) is not tuple:
            if isinstance(self.tags, str):
                raise InvalidArgument(f"tags: a list of tags is wanted, not {self.tags!r:.60}")
            object.__setattr__(self, "tags", tuple(self.tags))


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event as it stands in a stream.

    Attributes:
        tags: in the order in which they were given.
        erased: its data and metadata were erased for good, and are None.
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
    """What a transaction became.

    Attributes:
        commit: its number.
        first_position, last_position: of its events; None if it appended none.
        time: when it was numbered.
        versions: of each stream that it appended to, after it.
    """

    commit: CommitNumber
    first_position: Position | None
    last_position: Position | None
    time: datetime
    versions: Mapping[str, StreamVersion] = field(hash=False)


@dataclass(frozen=True, slots=True)
class TransactionStatus:
    """What became of a transaction; `committed` is given if the state is that."""

    state: Literal["committed", "aborted", "open", "forgotten"]
    committed: Committed | None


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """One line of the commit log."""

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
    """A stream as `load` gives it: the newest usable snapshot, and the events after it.

    Attributes:
        version: of the stream; 0 if there is none.
        snapshot: None if none of this name and schema is stored.
        events: those after the snapshot, or all that can be read.
        begins: the version at which the stream begins: 1, or one above that at which it was last
            deleted.
    """

    version: StreamVersion
    snapshot: Snapshot | None
    events: list[RecordedEvent]
    begins: StreamVersion = FIRST_VERSION

    @property
    def is_whole(self) -> bool:
        """Whether a state can be made of it: no event is hidden that the snapshot has not seen."""
        seen = self.begins - 1 if self.snapshot is None else self.snapshot.version
        return len(self.events) == self.version - seen


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot with all that names it."""

    stream: str
    name: str
    schema: int
    version: StreamVersion
    state: Any


@dataclass(frozen=True, slots=True)
class Pong:
    """The newest commit, and the server's clock."""

    commit: CommitNumber
    time: datetime


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made: its newest commit, the position of its newest event, its bytes."""

    commit: CommitNumber
    position: Position
    size: int


def committed_from(payload: Sequence[Any]) -> Committed:
    """What a commit's answer tells."""
    commit, time, first, last, versions = payload
    return Committed(commit, first, last, time_of(time), versions)
