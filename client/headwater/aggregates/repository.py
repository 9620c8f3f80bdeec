"""Repositories: aggregates whose state is what their events come to.

    accounts = Repository(Account, evolve, schema=2, name="account").on(db)
    state, version = await accounts.load("account-ann")
    await accounts.decide("account-ann", withdraw, 10)

    load:    newest snapshot of this name and schema --evolve--> with each event after it --> state
    decide:  load, command(state, 10) -> events, append with the version expected; again on a
             conflict; one transaction each time, exactly once across a lost connection

A snapshot never changes a result. It is made of recorded events alone, as they were read, never
of those that are about to be appended: these have not been through the codec yet. So decide
saves the state that it has loaded, in the transaction that appends, once `snapshot_every` events
had to be read for it. A state that would not come back equal from the codec (a tuple in a dict
comes back as a list) is not saved, and a warning says so. One of another schema is never asked
for; one that cannot be read is passed over.

A stream that was truncated is told from one that was deleted and begins anew: a state is never made
of what happens to be left of it.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, overload

from headwater.blocking.database import BlockingDatabase, BlockingPast, BlockingTransaction
from headwater.codecs.codec import decode_with, encode_with
from headwater.codecs.type_mapping import FunctionShape, Shape, has_shape, shape_of
from headwater.database import Database
from headwater.errors import InvalidArgument, StreamTruncated
from headwater.reads.past import Past
from headwater.reads.reads import Reads
from headwater.records import Committed, Event, Loaded, RecordedEvent
from headwater.transactions.transaction import Transaction
from headwater.transactions.writes import several
from headwater.transport.stepping import step
from headwater_protocol.numbers import StreamVersion
from headwater_protocol.operations import NAME, SCHEMA

if TYPE_CHECKING:
    from headwater.codecs.codec import Codec

State = TypeVar("State")

SNAPSHOT_EVERY_DEFAULT: Final = 100
"""Events after which a state is saved: a load reads them in one page."""

Decider = Callable[..., Iterable[Event] | Event | None]
"""What a command comes to: from the state, and what else it is given, to events."""


class Aggregate(NamedTuple, Generic[State]):
    """The state of a stream at a version of it; 0: there is no such stream."""

    state: State
    version: StreamVersion


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a command.

    Attributes:
        version: of the stream, with the events.
        events: what was decided; empty: nothing was to be done, and nothing was written.
        committed: None without events, and inside of a transaction that is still to commit.
    """

    version: StreamVersion
    events: tuple[Event, ...]
    committed: Committed | None


class Repository(Generic[State]):
    """How the state of an aggregate follows from its events. It holds no connection: see `on`.

    Args:
        initial: the state before the first event: a value, or what is called to make one.
        evolve: the state after an event: evolve(state, event) -> state.
        schema: version of this code; raise it when the state that it makes changes.
        snapshot_every: events after which a snapshot is saved; None: never.
        name: tells apart several aggregates of the same streams, and those of others for
            `headwater verify-snapshots`.
        decide: decide(state, command) -> events, where commands are data. Without it, a command
            is a function: command(state, *arguments) -> events.
        dump, load: the state as plain data, and back. Dataclasses, msgspec structs and pydantic
            models need none.
        summaries: types of events that tell all that was before them, so that a state can be made
            from such an event on if those before it are hidden.
    """

    def __init__(
        self,
        initial: State | Callable[[], State],
        evolve: Callable[[State, RecordedEvent], State],
        *,
        schema: int = 1,
        snapshot_every: int | None = SNAPSHOT_EVERY_DEFAULT,
        name: str = "",
        decide: Decider | None = None,
        dump: Callable[[State], Any] | None = None,
        load: Callable[[Any], State] | None = None,
        summaries: Collection[str] = (),
    ) -> None:
        SCHEMA(schema, "Repository: schema")
        if name:
            NAME(name, "Repository: name")
        if snapshot_every is not None and snapshot_every < 1:
            raise InvalidArgument(
                f"Repository: snapshot_every: {snapshot_every}; at least 1, or None for never"
            )
        if (dump is None) != (load is None):
            raise InvalidArgument("Repository: give dump= and load= both, or neither")
        if isinstance(summaries, str):
            raise InvalidArgument(f"Repository: summaries: several are wanted, not {summaries!r}")
        for what, function in (("evolve", evolve), ("decide", decide)):
            if function is None and what == "decide":
                continue
            if not callable(function):
                raise InvalidArgument(
                    f"Repository: {what}: a function is wanted, not {function!r:.60}"
                )
            if inspect.iscoroutinefunction(function):
                raise InvalidArgument(f"Repository: {what} is a pure function, not a coroutine's")
        self.evolve = evolve
        self.schema = schema
        self.snapshot_every = snapshot_every
        self.name = name
        self.decider = decide
        self.summaries = frozenset(summaries)
        self._initial = initial
        self._shape: Shape | None = None
        if dump is not None and load is not None:
            self._shape = FunctionShape(dump, load)
        elif has_shape(type(self.initial())):
            self._shape = shape_of(type(self.initial()))

    @overload
    def on(self, place: Database | Transaction | Past) -> "Aggregates[State]": ...
    @overload
    def on(
        self, place: BlockingDatabase | BlockingTransaction | BlockingPast
    ) -> "BlockingAggregates[State]": ...
    def on(self, place: Any) -> "Aggregates[State] | BlockingAggregates[State]":
        """The aggregates of a database, as a transaction sees and changes them, or as they were.

        Args:
            place: a database, a transaction, or `db.at(…)`, which can only be loaded from.
        """
        match place:
            case Database() | Transaction() | Past():
                return Aggregates(self, place)
            case BlockingDatabase():
                return BlockingAggregates(Aggregates(self, place._database))  # noqa: SLF001
            case BlockingPast():
                return BlockingAggregates(Aggregates(self, place._past))  # noqa: SLF001
            case BlockingTransaction():
                return BlockingAggregates(Aggregates(self, place._transaction))  # noqa: SLF001
            case _:
                raise InvalidArgument(
                    f"on: a database or a transaction is wanted, not {type(place).__name__}"
                )

    def initial(self) -> State:
        """A state before the first event, shared with nobody."""
        if callable(self._initial):
            made: State = self._initial()
            return made
        return copy.deepcopy(self._initial)

    def replay(self, state: State, events: Iterable[RecordedEvent]) -> State:
        """The state after some more events.

        What evolve raises at an event whose data was erased says so.
        """
        evolve = self.evolve
        for event in events:
            try:
                state = evolve(state, event)
            except Exception as error:
                if event.erased:
                    error.add_note(
                        f"event {event.version} of {event.stream} ({event.type}) was erased: its "
                        "data is None, and event.erased is true; evolve must bear that"
                    )
                raise
        return state

    def is_summary(self, event: RecordedEvent) -> bool:
        """Whether a state can be made from this event on, whatever was before it."""
        return event.type in self.summaries and not event.erased

    def needed(self, stream: str, loaded: Loaded) -> Sequence[RecordedEvent]:
        """The events that a state must be made of, from a snapshot or from the initial state.

        Raises:
            StreamTruncated: some of them are hidden.
        """
        events = loaded.events
        if loaded.is_whole:
            return events
        for place, event in enumerate(events):
            if self.is_summary(event) and len(events) - place == loaded.version - event.version + 1:
                return events[place:]
        first = events[0].version if events else loaded.version + 1
        there = f"are there from version {first} on" if events else "are all hidden"
        raise StreamTruncated(
            f"stream {stream!r} was truncated: it begins at version {loaded.begins}, its events "
            f"{there}, and no snapshot {f'{self.name!r} ' if self.name else ''}of schema "
            f"{self.schema} stands for those before. Load it with the schema that has a snapshot, "
            f"and save that state as one of schema {self.schema}; or delete the stream to begin "
            "anew",
            details={
                "stream": stream,
                "version": loaded.version,
                "first": first,
                "begins": loaded.begins,
            },
        )

    def decided(self, state: State, command: Any, arguments: tuple[Any, ...]) -> tuple[Event, ...]:
        """The events that a command comes to.

        Raises:
            InvalidArgument: the command is nothing that can be called, or comes to no events.
        """
        if self.decider is not None:
            events = self.decider(state, command, *arguments)
        elif callable(command):
            events = command(state, *arguments)
        else:
            raise InvalidArgument(
                f"decide: {command!r:.60} is no function; for commands that are data give the "
                "Repository a decide="
            )
        if inspect.iscoroutine(events):
            events.close()
            raise InvalidArgument("decide: a command is a pure function, not a coroutine's")
        return () if events is None else tuple(several(events, "decide"))

    def dump_state(self, state: State) -> Any:
        """The state as plain data."""
        return state if self._shape is None else self._shape.dump(state)

    def load_state(self, data: Any) -> State:
        """The state that dump_state made *data* of; any exception if it does not fit."""
        state: State = data if self._shape is None else self._shape.load(data)
        return state

    def snapshot_of(self, state: State, codec: "Codec", stream: str) -> Any:
        """The state as a snapshot keeps it; None if it would come back as another."""
        try:
            data = self.dump_state(state)
            stored = decode_with(codec, encode_with(codec, data, "state"), "state")
            if stored == data and self.load_state(stored) == state:
                return stored
            reason = "it would come back as another"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"the state of {stream} cannot be kept in a snapshot: {reason}; every load replays "
            "its events",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@dataclass(slots=True)
class _Replayed(Generic[State]):
    """A state, and what it was made of.

    Attributes:
        replayed: how many events were read for it.
        recorded: whether all of them are committed, none of them the transaction's own.
    """

    state: State
    version: StreamVersion
    replayed: int
    recorded: bool


class Aggregates(Generic[State]):
    """Made by `Repository.on`."""

    def __init__(self, repository: Repository[State], place: Database | Transaction | Past) -> None:
        self.repository = repository
        self._place = place

    async def load(self, stream: str) -> Aggregate[State]:
        """The state and the version of a stream: `state, version = await accounts.load(…)`.

        Raises:
            StreamTruncated: events that the state needs are hidden.
        """
        loaded = await self._replay(self._place, stream)
        return Aggregate(loaded.state, loaded.version)

    async def save(
        self, stream: str, events: Event | Iterable[Event], version: int
    ) -> Committed | None:
        """Append events that were decided on the state of a version; None inside a transaction.

        If a snapshot is due and events that it needs are hidden, none is kept, with a warning.

        Raises:
            WrongVersion: the stream is at another version.
        """
        kept = tuple(several(events, "save"))
        if isinstance(self._place, Transaction):
            await self._append(self._place, stream, kept, version)
            return None

        async def append(transaction: Transaction) -> Transaction:
            await self._append(transaction, stream, kept, version)
            return transaction

        return (await self._database("save").run(append)).committed

    async def decide(
        self,
        stream: str,
        command: Any,
        *arguments: Any,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> Decided:
        """Load, decide, append with the version expected; again if another was faster.

        What the command raises is raised here, and nothing is written.

        Args:
            command: command(state, *arguments) -> events; or what the Repository's decide takes.
            attempts, deadline: as of `db.run`.

        Raises:
            Conflict: others were faster each time.
            StreamTruncated: events that the state needs are hidden.
        """
        if isinstance(self._place, Transaction):
            return await self._decide(self._place, stream, command, arguments)

        async def decide(transaction: Transaction) -> tuple[Transaction, Decided]:
            return transaction, await self._decide(transaction, stream, command, arguments)

        transaction, decided = await self._database("decide").run(
            decide, attempts=attempts, deadline=deadline
        )
        if not decided.events:
            return decided
        return Decided(decided.version, decided.events, transaction.committed)

    def _database(self, place: str) -> Database:
        if not isinstance(self._place, Database):
            raise InvalidArgument(f"{place}: the past cannot be changed")
        return self._place

    async def _decide(
        self, transaction: Transaction, stream: str, command: Any, arguments: tuple[Any, ...]
    ) -> Decided:
        loaded = await self._replay(transaction, stream)
        # Before the command, which may change a state that can be changed.
        snapshot = self._snapshot_due(stream, loaded)
        events = self.repository.decided(loaded.state, command, arguments)
        if events:
            transaction.append(stream, events, expect=loaded.version)
            self._keep(transaction, stream, loaded.version, snapshot)
        return Decided(StreamVersion(loaded.version + len(events)), events, None)

    async def _append(
        self, transaction: Transaction, stream: str, events: tuple[Event, ...], version: int
    ) -> None:
        every = self.repository.snapshot_every
        if every is not None and version // every != (version + len(events)) // every:
            # Once in `every` events. Before they are appended: they are not recorded yet.
            await self._keep_at(transaction, stream, version)
        transaction.append(stream, events, expect=version)

    async def _keep_at(self, transaction: Transaction, stream: str, version: int) -> None:
        try:
            loaded = await self._replay(transaction, stream)
        except StreamTruncated as error:
            # The state that was decided on came from elsewhere, and the append is as right as it.
            warnings.warn(f"no snapshot is kept: {error}", RuntimeWarning, stacklevel=2)
            return
        if loaded.version == version:
            self._keep(transaction, stream, version, self._snapshot_due(stream, loaded))

    def _snapshot_due(self, stream: str, loaded: _Replayed[State]) -> Any:
        every = self.repository.snapshot_every
        if every is None or loaded.replayed < every or not loaded.recorded:
            return None
        return self.repository.snapshot_of(loaded.state, self._place._codec, stream)  # noqa: SLF001

    def _keep(self, transaction: Transaction, stream: str, version: int, snapshot: Any) -> None:
        if snapshot is not None:
            transaction.save_snapshot(
                stream,
                version=version,
                state=snapshot,
                schema=self.repository.schema,
                name=self.repository.name,
            )

    async def _replay(self, reads: Reads, stream: str) -> _Replayed[State]:
        repository = self.repository
        loaded = await reads.load(stream, schema=repository.schema, name=repository.name)
        if not loaded.is_whole:
            # Of several pages, the later ones may have been truncated in between: once more.
            loaded = await reads.load(stream, schema=repository.schema, name=repository.name)
        state = repository.initial()
        if loaded.snapshot is not None:
            try:
                state = repository.load_state(loaded.snapshot.state)
            except Exception:
                # Of code that forgot to raise its schema: the events are the truth.
                pages = reads.read(stream)
                there = [event async for event in pages if event.version <= loaded.version]
                loaded = Loaded(loaded.version, None, there, loaded.begins)
        events = repository.needed(stream, loaded)
        return _Replayed(
            repository.replay(state, events),
            loaded.version,
            len(events),
            recorded=not events or events[-1].commit > 0,
        )


class BlockingAggregates(Generic[State]):
    """Made by `Repository.on` of a blocking database or transaction; see Aggregates."""

    def __init__(self, aggregates: Aggregates[State]) -> None:
        self._aggregates = aggregates
        self.repository = aggregates.repository

    def load(self, stream: str) -> Aggregate[State]:
        return step(self._aggregates.load(stream))

    def save(self, stream: str, events: Event | Iterable[Event], version: int) -> Committed | None:
        return step(self._aggregates.save(stream, events, version))

    def decide(
        self,
        stream: str,
        command: Any,
        *arguments: Any,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> Decided:
        return step(
            self._aggregates.decide(
                stream, command, *arguments, attempts=attempts, deadline=deadline
            )
        )
