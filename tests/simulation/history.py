"""A history: what clients asked, what they saw, and what they were told, in real-time order.

An attempt is one transaction as its client knows it. How it ended, as far as the client was
told:

    committed    with its commit number
    aborted      never asked to commit, refused, or fenced: it must not have happened
    unknown      no answer, and nobody could be asked: it may have happened

The words are those of Jepsen's histories (ok, fail, info). Values are plain Python ones; a list
under a key and a stream are both lists of elements, and every element is written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

Key: TypeAlias = tuple[Any, ...]


class Outcome(Enum):
    """How an attempt ended, as far as its client knows."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


# What was read, with what came back.


class Get(NamedTuple):
    """The value of a key."""

    key: Key
    value: Any


class Scan(NamedTuple):
    """All keys with a prefix, or the first so many."""

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
    """Elements of all streams, of a category or type, or with tags, after a position."""

    after: int
    category: str | None
    kind: str | None
    elements: list[str]
    tags: tuple[str, ...] = ()


class Load(NamedTuple):
    """A stream by way of its snapshot: the state that it comes to, and its version."""

    stream: str
    schema: int
    version: int
    state: Any


class Kept(NamedTuple):
    """A stream of which something may be hidden or erased, by way of its snapshot.

    The state is the list of all elements: those that the snapshot has, and those after it.
    """

    stream: str
    schema: int
    version: int
    begins: int
    base: int | None
    elements: list[str]


class Listing(NamedTuple):
    """Streams with a prefix: their names, versions, first versions, and where they begin."""

    prefix: str
    streams: Sequence[tuple[str, int, int, int]]


class NoEvents(NamedTuple):
    """A condition of the commit: no event with these tags is beyond a position."""

    tags: tuple[str, ...]
    after: int


# What was written.


class Put(NamedTuple):
    """A value, None being a deletion."""

    key: Key
    value: Any


class DeleteRange(NamedTuple):
    """All keys with a prefix."""

    prefix: Key


class Add(NamedTuple):
    """A number to be added."""

    key: Key
    number: int


class Append(NamedTuple):
    """Elements to a stream, in order, each with the type of its event."""

    stream: str
    elements: list[tuple[str, str]]


class Save(NamedTuple):
    """A snapshot, whose state is what was loaded."""

    stream: str
    schema: int
    version: int


class Truncate(NamedTuple):
    """The events of a stream below a version are hidden."""

    stream: str
    before: int


class DeleteStream(NamedTuple):
    """All events of a stream are hidden, and it begins anew."""

    stream: str


class Retain(NamedTuple):
    """Only the newest events of a stream are kept; None: all, from now on."""

    stream: str
    newest: int | None


class Erase(NamedTuple):
    """The data of events of a stream goes."""

    stream: str
    versions: list[int]


Thinning: TypeAlias = Truncate | DeleteStream | Retain | Erase
"""What takes events, or their data, away."""

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
    | Append
    | Save
    | Thinning
)


def is_write(operation: Operation) -> bool:
    """Whether it asks for anything to be changed."""
    return isinstance(operation, Put | DeleteRange | Add | Append | Save | Thinning)


@dataclass(slots=True, eq=False)
class Attempt:
    """One transaction, or one read outside of any.

    Attributes:
        number: of the attempt in the world.
        client: who made it.
        name: of its workload.
        isolation: "serializable" or "snapshot".
        identity: of the transaction; None if its client was never told.
        begun, ended: its place among all beginnings and ends of attempts.
        floor: the newest commit that anybody had been told of when it began.
        view: the commit that it read at, if the client was told.
        commit: its number, if it committed.
        operations: in order.
        floors: of operations, by their place: the newest commit that anybody had been told of when
            they were asked.
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
        """Whether it asked for anything to be changed."""
        return any(map(is_write, self.operations))

    def __str__(self) -> str:
        return (
            f"attempt {self.number} ({self.client}, {self.name}, {self.isolation}, "
            f"view {self.view}, commit {self.commit}, {self.outcome.value}, "
            f"floor {self.floor}, {self.begun} to {self.ended})"
        )


def tags_of(element: str) -> list[str]:
    """The tags of the event that has an element: they stand behind it, as "w1.7#red#odd"."""
    return element.split("#")[1:]


def erased_element(position: int) -> str:
    """What stands in place of the element of an event that was erased."""
    return f"~{position}"


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
    """A subscription, over all connections that it took: what it was for and what came.

    Attributes:
        floors: for each event, the newest commit that anybody had been told of when the
            subscription that brought it was made.
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

    def wants(self, event: Seen) -> bool:
        """Whether an event fits its filter."""
        return (
            (self.category is None or event.stream.partition("-")[0] == self.category)
            and (self.stream is None or event.stream == self.stream)
            and (self.prefix is None or event.stream.startswith(self.prefix))
            and (not self.kinds or event.kind in self.kinds)
            and {*self.tags} <= {*tags_of(event.element)}
        )


class Logged(NamedTuple):
    """A line of the commit log."""

    commit: int
    transaction: bytes
    time: int
    first_position: int | None
    events: int


class Fate(NamedTuple):
    """What a client was told of a transaction that it asked about.

    *floor* is the newest commit that anybody had been told of when it was asked. *asked* and *told*
    are places among all beginnings and ends of attempts.
    """

    transaction: bytes
    state: str
    commit: int | None
    floor: int = 0
    asked: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True)
class Dump:
    """All that a database holds, read at its end."""

    commits: list[Logged]
    events: list[Seen]
    keys: list[tuple[Key, Any]]
    streams: dict[str, list[Seen]]


@dataclass(slots=True)
class History:
    """All of a world.

    Attributes:
        fenced: transactions that somebody asked to be aborted.
        acknowledged: the newest commit that any client was told of.
        grouped: there is a consumer group, whose state the server commits by itself.
        consumed: the category that the group has consumed to its end, if it has.
    """

    attempts: list[Attempt] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    fenced: set[bytes] = field(default_factory=set)
    acknowledged: int = 0
    grouped: bool = False
    consumed: str = ""
    ticks: int = 0

    @property
    def unknown(self) -> int:
        """How many attempts to write have a fate that their client was never told."""
        return sum(each.writes and each.outcome is Outcome.UNKNOWN for each in self.attempts)

    def tick(self) -> int:
        """The next place in the order of all that happens to clients."""
        self.ticks += 1
        return self.ticks

    def begin(self, client: str, name: str, *, isolation: str = "serializable") -> Attempt:
        """An attempt begins now."""
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
        """Its client is told now how it ended."""
        attempt.ended = self.tick()
        attempt.outcome = outcome
        if commit is not None:
            if attempt.writes:
                attempt.commit = commit
            self.acknowledged = max(self.acknowledged, commit)
        if attempt.view is not None:
            # Whoever saw a commit knows of it as well.
            self.acknowledged = max(self.acknowledged, attempt.view)
