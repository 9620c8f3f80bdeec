"""The aggregates of a database, of a transaction, or of the past: load, save, decide."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple, overload

from headwater.aggregates.definition import Definition
from headwater.database import Database
from headwater.errors import InvalidArgument, StreamTruncated
from headwater.reads.past import Past
from headwater.reads.reads import Reads
from headwater.records import Committed, Event, Loaded
from headwater.transactions.transaction import Transaction
from headwater.transactions.writes import several
from headwater_protocol.numbers import StreamVersion

State = TypeVar("State")
Ts = TypeVarTuple("Ts")


class Aggregate(NamedTuple, Generic[State]):
    """The state of a stream, and its version. 0: there is no such stream, or it was deleted."""

    state: State
    version: StreamVersion


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of a command.

    Attributes:
        version: of the stream, including the new events.
        events: the decided events. Empty: nothing was written.
        committed: None without events, and inside of a transaction, which has yet to commit.
    """

    version: StreamVersion
    events: tuple[Event, ...]
    committed: Committed | None


@dataclass(slots=True)
class _Replayed(Generic[State]):
    """A state, and what it was built from.

    Attributes:
        replayed: the number of events that were read for it.
        recorded: whether all of them are committed; none is of the transaction itself.
    """

    state: State
    version: StreamVersion
    begins: StreamVersion
    replayed: int
    recorded: bool


class Aggregates(Generic[State]):
    """The aggregates of a database, of a transaction, or of the past. Made by `Repository.on`.

    Attributes:
        repository: the rules of the aggregates.
    """

    def __init__(self, repository: Definition[State], place: Database | Transaction | Past) -> None:
        self.repository = repository
        self._place = place

    async def load(
        self,
        stream: str,
        *,
        version: int | None = None,
        time: datetime | None = None,
        commit: int | None = None,
    ) -> Aggregate[State]:
        """Load the state and the version of a stream: `state, version = await accounts.load(…)`.

        Events are never lost to the history window, so a past state can be however old.

        Args:
            stream: its name.
            version: load the state at this version.
            time: load the state at this time.
            commit: load the state at this commit.

        Raises:
            StreamTruncated: events that the state needs are hidden.
            InvalidArgument: the stream is below that version.
        """
        if sum(each is not None for each in (version, time, commit)) > 1:
            raise InvalidArgument("load: give one of version=, time= and commit=")
        if time is not None or commit is not None:
            version = await self._version_at(stream, time, commit)
        loaded = await self._replay(self._place, stream, version)
        return Aggregate(loaded.state, loaded.version)

    async def save(
        self, stream: str, events: Event | Iterable[Event], version: int
    ) -> Committed | None:
        """Append events that were decided on the state of a version.

        If a snapshot is due, but events that it needs are hidden, no snapshot is saved, with a
        warning.

        Args:
            stream: its name.
            events: one, or several in order.
            version: of the state on which they were decided.

        Returns:
            The commit. Inside of a transaction, None.

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

    @overload
    async def decide(
        self,
        stream: str,
        command: Callable[[State, *Ts], Event | Iterable[Event] | None],
        *arguments: *Ts,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> Decided: ...
    @overload
    async def decide(
        self,
        stream: str,
        command: object,
        *,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> Decided: ...
    # mypy takes no signature with *Ts for one that *arguments can have.
    async def decide(  # type: ignore[misc]
        self,
        stream: str,
        command: Any,
        *arguments: Any,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> Decided:
        """Load a state, decide, and append with the expected version. Repeat after a conflict.

        An exception of the command is raised here, and nothing is written.

        Args:
            stream: its name.
            command: a function, command(state, *arguments) -> events. If the Repository has a
                `decide`, any value that it takes.
            arguments: passed on to the command.
            attempts, deadline: as for `db.run`.

        Raises:
            Conflict: there was a conflict in each attempt.
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
        # Before the command, which might mutate the state.
        snapshot = self._snapshot_due(stream, loaded)
        events = self.repository.decided(loaded.state, command, arguments)
        if events:
            transaction.append(stream, events, expect=loaded.version)
            self._keep(transaction, stream, loaded.version, snapshot)
        if not events:
            return Decided(loaded.version, events, None)
        # The versions of a deleted stream go on where they ended.
        before = max(loaded.version, loaded.begins - 1)
        return Decided(StreamVersion(before + len(events)), events, None)

    async def _append(
        self, transaction: Transaction, stream: str, events: tuple[Event, ...], version: int
    ) -> None:
        every = self.repository.snapshot_every
        if every is not None and version // every != (version + len(events)) // every:
            # Once in `every` events. Before the append, because a snapshot is made of recorded
            # events only.
            await self._keep_at(transaction, stream, version, len(events))
        transaction.append(stream, events, expect=version)

    async def _keep_at(
        self, transaction: Transaction, stream: str, version: int, coming: int
    ) -> None:
        try:
            loaded = await self._replay(transaction, stream)
        except StreamTruncated as error:
            # The caller has the state from elsewhere, so the append itself is not affected.
            warnings.warn(f"no snapshot is saved: {error}", RuntimeWarning, stacklevel=2)
            return
        if loaded.version == version:
            # With the events to come, as many would have to be read, and the next look is far.
            snapshot = self._snapshot_due(stream, loaded, coming)
            self._keep(transaction, stream, version, snapshot)

    def _snapshot_due(self, stream: str, loaded: _Replayed[State], coming: int = 0) -> Any:
        every = self.repository.snapshot_every
        if every is None or not loaded.replayed or loaded.replayed + coming < every:
            return None
        if not loaded.recorded:
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

    async def _version_at(self, stream: str, time: datetime | None, commit: int | None) -> int:
        before = self._place.read(stream, until=time, until_commit=commit, reverse=True, limit=1)
        async for event in before:
            return event.version
        # No event is that old, or those that were are hidden.
        async for event in self._place.read(stream, limit=1):
            return event.version - 1
        return 0

    async def _replay(self, reads: Reads, stream: str, upto: int | None = None) -> _Replayed[State]:
        repository = self.repository
        loaded = await self._load(reads, stream, None, upto)
        state = repository.initial()
        while loaded.snapshot is not None:
            try:
                state = repository.load_state(loaded.snapshot.state)
                break
            except Exception:
                # The code has changed and its schema has not. Use an older snapshot, or the events.
                loaded = await self._load(reads, stream, loaded.snapshot.version, upto)
        events = repository.needed(stream, loaded)
        return _Replayed(
            repository.replay(state, events),
            loaded.version,
            loaded.begins,
            len(events),
            recorded=not events or events[-1].commit > 0,
        )

    async def _load(
        self, reads: Reads, stream: str, snapshot_below: int | None, upto: int | None
    ) -> Loaded:
        load = partial(
            reads.load,
            stream,
            schema=self.repository.schema,
            name=self.repository.name,
            snapshot_below=snapshot_below,
            upto=upto,
        )
        loaded = await load()
        # The stream may have been truncated between two pages, so load once more.
        return loaded if loaded.is_whole else await load()
