"""The aggregates of a database, of a transaction, or of the past: load, save, decide."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

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
    """Made by `Repository.on`.

    Attributes:
        repository: the rules of the aggregates.
    """

    def __init__(self, repository: Definition[State], place: Database | Transaction | Past) -> None:
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
