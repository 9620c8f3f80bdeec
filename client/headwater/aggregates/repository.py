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
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case BlockingPast():
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case BlockingTransaction():
                return BlockingAggregates(Aggregates(self, place._core))  # noqa: SLF001
            case _:
                raise InvalidArgument(
                    f"on: a database or a transaction is wanted, not {type(place).__name__}"
                )
