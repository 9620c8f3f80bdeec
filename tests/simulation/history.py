"""A history: the requests and answers of all clients, in real-time order.

An attempt is one transaction, as its client knows it. Its outcome is what the client was told:

    committed    with its commit number
    aborted      it never asked to commit, was refused, or was aborted: it must have no effect
    unknown      no answer, and the status could not be asked: it may have taken effect

Jepsen calls these outcomes ok, fail and info. Values are plain Python values. A list under a key
and a stream are both lists of elements, and every element is written only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

Key: TypeAlias = tuple[Any, ...]


class Outcome(Enum):
    """The outcome of an attempt, as far as its client knows."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


# Reads, with their results.


class Get(NamedTuple):
    """The value of a key."""

    key: Key
    value: Any


class Scan(NamedTuple):
    """All keys with a prefix, or the first ones up to a limit."""

    prefix: Key
    limit: int | None
    reverse: bool
    items: list[tuple[Key, Any]]


class Read(NamedTuple):
    """The elements of a stream after a version."""

    stream: str
    after: int
    elements: list[str]


class Query(NamedTuple):
    """Elements after a position: of all streams, of a category or type, or with tags."""

    after: int
    category: str | None
    kind: str | None
    elements: list[str]
    tags: tuple[str, ...] = ()


class Load(NamedTuple):
    """A load of a stream with its snapshot: the state and the version."""

    stream: str
    schema: int
    version: int
    state: Any


class Kept(NamedTuple):
    """A load, with its snapshot, of a stream that may have hidden or erased events.

    The state is the list of all elements: those in the snapshot and those after it.
    """

    stream: str
    schema: int
    version: int
    begins: int
    base: int | None
    elements: list[str]


class Listing(NamedTuple):
    """A list of the streams with a prefix: names, versions, first versions and beginnings."""

    prefix: str
    streams: Sequence[tuple[str, int, int, int]]


class NoEvents(NamedTuple):
    """A condition of the commit: no event with these tags after a position."""

    tags: tuple[str, ...]
    after: int


# Writes.


class Put(NamedTuple):
    """A value; None deletes the key."""

    key: Key
    value: Any


class DeleteRange(NamedTuple):
    """Deletes all keys with a prefix."""

    prefix: Key


class Add(NamedTuple):
    """Adds a number."""

    key: Key
    number: int


class Expire(NamedTuple):
    """Lets a key expire so many microseconds after the commit; None: never."""

    key: Key
    after: int | None


class Append(NamedTuple):
    """Appends elements to a stream, each with the type of its event."""

    stream: str
    elements: list[tuple[str, str]]


class Save(NamedTuple):
    """Saves the loaded state as a snapshot."""

    stream: str
    schema: int
    version: int


class Truncate(NamedTuple):
    """Hides the events of a stream below a version."""

    stream: str
    before: int


class DeleteStream(NamedTuple):
    """Hides all events of a stream, which starts again."""

    stream: str


class Retain(NamedTuple):
    """Keeps only the newest events of a stream; None: no limit."""

    stream: str
    newest: int | None


class Erase(NamedTuple):
    """Erases the data of events of a stream."""

    stream: str
    versions: list[int]


Thinning: TypeAlias = Truncate | DeleteStream | Retain | Erase
"""Operations that hide or erase events."""

Operation: TypeAlias = (
    Get
    | Scan
    | Read
    | Query
    | Load
    | Kept
    | Listing
    | NoEvents
    | Put
    | DeleteRange
    | Add
    | Expire
    | Append
    | Save
    | Thinning
)


def is_write(operation: Operation) -> bool:
    """Whether the operation is a write."""
    return isinstance(operation, Put | DeleteRange | Add | Expire | Append | Save | Thinning)


@dataclass(slots=True, eq=False)
class Attempt:
    """One transaction, or one read outside a transaction.

    Attributes:
        number: number of the attempt in the world.
        client: the client that made it.
        name: name of its workload.
        isolation: "serializable" or "snapshot".
        identity: id of the transaction; None if the client does not know it.
        begun, ended: its place among all beginnings and ends of attempts.
        floor: the newest commit that any client knew when it began.
        view: the commit of its read view, if the client knows it.
        commit: its commit number, if it committed.
        operations: its operations, in order.
        floors: for each operation by its index, the newest commit that any client knew when it was
            requested.
    """

    number: int
    client: str
    name: str
    begun: int
    floor: int
    isolation: str = "serializable"
    identity: bytes | None = None
    ended: int | None = None
    view: int | None = None
    commit: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    operations: list[Operation] = field(default_factory=list)
    floors: dict[int, int] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether the attempt has a write."""
        return any(map(is_write, self.operations))

    def __str__(self) -> str:
        return (
            f"attempt {self.number} ({self.client}, {self.name}, {self.isolation}, "
            f"view {self.view}, commit {self.commit}, {self.outcome.value}, "
            f"floor {self.floor}, {self.begun} to {self.ended})"
        )


def tags_of(element: str) -> list[str]:
    """The tags of an element's event. They follow the element, as in "w1.7#red#odd"."""
    return element.split("#")[1:]


def erased_element(position: int) -> str:
    """The placeholder for the element of an erased event."""
    return f"~{position}"


def is_of_a_client(key: Key) -> bool:
    """Whether a key is not one of a projection: those begin with "$"."""
    return not str(key[0]).startswith("$")


class Seen(NamedTuple):
    """An event as it was delivered or read."""

    position: int
    stream: str
    version: int
    commit: int
    kind: str
    element: str


@dataclass(slots=True, eq=False)
class Feed:
    """A subscription, over all its connections: its filter and the events that it received.

    Attributes:
        floors: for each event, the newest commit that any client knew when the subscription that
            delivered it was opened.
        position: what the subscription told as its position, where the next one begins.
    """

    client: str
    after: int
    category: str | None = None
    stream: str | None = None
    prefix: str | None = None
    kinds: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    events: list[Seen] = field(default_factory=list)
    floors: list[int] = field(default_factory=list)
    caught_up: int = 0
    position: int = 0

    def wants(self, event: Seen) -> bool:
        """Whether an event matches its filter."""
        return (
            (self.category is None or event.stream.partition("-")[0] == self.category)
            and (self.stream is None or event.stream == self.stream)
            and (self.prefix is None or event.stream.startswith(self.prefix))
            and (not self.kinds or event.kind in self.kinds)
            and {*self.tags} <= {*tags_of(event.element)}
        )


class Logged(NamedTuple):
    """A record of the commit log."""

    commit: int
    transaction: bytes
    time: int
    first_position: int | None
    events: int


class StatusAnswer(NamedTuple):
    """The answer to a `status` request.

    *floor* is the newest commit that any client knew at the request. *asked* and *told* are places
    among all beginnings and ends of attempts.
    """

    transaction: bytes
    state: str
    commit: int | None
    floor: int = 0
    asked: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True)
class Dump:
    """The contents of a database, read at the end.

    Attributes:
        keys: without those of the projection.
        projected: the versions of each stream that the projection has handled.
    """

    commits: list[Logged]
    events: list[Seen]
    keys: list[tuple[Key, Any]]
    streams: dict[str, list[Seen]]
    projected: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """The history of a whole world.

    Attributes:
        fenced: transactions that a client asked the server to abort.
        acknowledged: the newest commit that any client knows.
        grouped: whether there is a consumer group, whose state the server commits itself.
        consumed: the category that the group has consumed completely, if it has.
        snapshots_kept: how many snapshots the server keeps of a stream and schema.
        projecting: whether there is a projection, whose commits are of no client's attempt.
        projected: the category that the projection has handled completely, if it has.
        skipped: the positions of events that the projection was told to skip.
        raised: the stream and version of each event at which its handler has raised.
        reports: what the projections have logged.
    """

    attempts: list[Attempt] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    status_answers: list[StatusAnswer] = field(default_factory=list)
    fenced: set[bytes] = field(default_factory=set)
    acknowledged: int = 0
    grouped: bool = False
    consumed: str = ""
    snapshots_kept: int = 1
    projecting: bool = False
    projected: str = ""
    skipped: set[int] = field(default_factory=set)
    raised: list[tuple[str, int]] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    ticks: int = 0

    @property
    def unknown(self) -> int:
        """The number of attempts with writes whose outcome the client does not know."""
        return sum(each.writes and each.outcome is Outcome.UNKNOWN for each in self.attempts)

    def tick(self) -> int:
        """The next place in the order of all beginnings and ends."""
        self.ticks += 1
        return self.ticks

    def begin(self, client: str, name: str, *, isolation: str = "serializable") -> Attempt:
        """Begin an attempt."""
        attempt = Attempt(
            len(self.attempts),
            client,
            name,
            begun=self.tick(),
            floor=self.acknowledged,
            isolation=isolation,
        )
        self.attempts.append(attempt)
        return attempt

    def end(self, attempt: Attempt, outcome: Outcome, commit: int | None = None) -> None:
        """End an attempt: the client now knows its outcome."""
        attempt.ended = self.tick()
        attempt.outcome = outcome
        if commit is not None:
            if attempt.writes:
                attempt.commit = commit
            self.acknowledged = max(self.acknowledged, commit)
        if attempt.view is not None:
            # A client that has read a commit knows it too.
            self.acknowledged = max(self.acknowledged, attempt.view)
