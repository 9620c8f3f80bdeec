"""Repositories: aggregates whose state follows from their events.

    accounts = Repository(Account, evolve, schema=2, name="account").on(db)
    state, version = await accounts.load("account-ann")
    await accounts.decide("account-ann", withdraw, 10)

    load:    newest snapshot of this name and schema --evolve--> with each event after it --> state
    decide:  load, command(state, 10) -> events, append with the version expected; again on a
             conflict; one transaction each time, exactly once across a lost connection

A snapshot never changes a result. It is made only of recorded events, as they were read. Events
that are about to be appended have not been through the codec yet. So `decide` saves the state that
it has loaded, in the transaction that appends, once `snapshot_every` events had to be read for it.
A state that the codec would not return equal (a tuple in a dict becomes a list) is not saved, with
a warning. Snapshots of other schemas are never read. A snapshot that cannot be decoded is passed
over: the next older one is used, or all events.

A truncated stream is distinguished from one that was deleted and begins again: a state is never
built from the remaining events of a truncated stream.
"""

from typing import Any, TypeVar, overload

from headwater.aggregates.aggregates import Aggregates
from headwater.aggregates.blocking_aggregates import BlockingAggregates
from headwater.aggregates.definition import Definition
from headwater.blocking.database import BlockingDatabase
from headwater.blocking.past import BlockingPast
from headwater.blocking.transaction import BlockingTransaction
from headwater.database import Database
from headwater.errors import InvalidArgument
from headwater.reads.past import Past
from headwater.transactions.transaction import Transaction

State = TypeVar("State")


class Repository(Definition[State]):
    """The rules of an aggregate: how its state follows from its events. See `on` for its use.

    Args:
        initial: the state before the first event: a value, or a function that returns one.
        evolve: evolve(state, event) returns the state after an event.
        schema: the version of this code. Increase it when the resulting states change.
        snapshot_every: the number of events after which a snapshot is saved. None: never.
        name: distinguishes several aggregates of the same streams, also for
            `headwater verify-snapshots`.
        decide: decide(state, command) returns events, where commands are data. Without it, a
            command is a function: command(state, *arguments) returns events.
        dump, load: functions from the state to plain data and back. Dataclasses, msgspec structs
            and pydantic models need none.
        summaries: types of events that contain everything that was before them. If earlier events
            are hidden, a state can be built from such an event on.
    """

    @overload
    def on(self, place: Database | Transaction | Past) -> "Aggregates[State]": ...
    @overload
    def on(
        self, place: BlockingDatabase | BlockingTransaction | BlockingPast
    ) -> "BlockingAggregates[State]": ...
    def on(self, place: Any) -> "Aggregates[State] | BlockingAggregates[State]":
        """The aggregates of a database, of a transaction, or of the past.

        Args:
            place: a database, a transaction, or `db.at(…)`, from which they can only be loaded.
        """
        match place:
            case Database() | Transaction() | Past():
                return Aggregates(self, place)
            case BlockingDatabase():
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case BlockingPast():
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case BlockingTransaction():
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case _:
                raise InvalidArgument(
                    f"on: expected a database or a transaction, got {type(place).__name__}"
                )
