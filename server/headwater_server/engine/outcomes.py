"""Outcomes: what became of a transaction, by its id.

The log remembers the ids of commits and fences for a time, the retention. An id that is not known
may still commit, unless it is so old that it may have been forgotten.
"""

from dataclasses import dataclass

from headwater_protocol.errors import TransactionForgotten
from headwater_server.engine.format.transaction_ids import made_at, made_between, told_time
from headwater_server.engine.settings import HOUR_US, EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket


@dataclass(frozen=True, slots=True)
class TransactionStatus:
    """The status of a transaction: a word, and for a commit the ticket with its answer.

    The answer waits for `ticket.sequence` even if the transaction was aborted, because a fence only
    holds once it is durable.
    """

    state: str
    ticket: Ticket


class Outcomes:
    """What the log remembers of transactions."""

    def __init__(
        self, state: State, sequencer: Sequencer, settings: EngineSettings, *, created: int
    ) -> None:
        """*created* is when the database was made, in microseconds since 1970-01-01 UTC."""
        self._state = state
        self._sequencer = sequencer
        self._settings = settings
        self._created = created

    def known(self, transaction: bytes) -> int | None:
        """The commit number of a transaction, ABORTED, or None if it may still commit.

        Raises:
            TransactionForgotten: it may have committed before the retention.
        """
        known = self._state.transaction(transaction)
        if known is None and self.is_forgotten(transaction):
            raise TransactionForgotten(
                f"transaction {transaction.hex()} is older than the retention of "
                f"{self._settings.transaction_retention_us // 1_000_000} s: whether it was "
                f"committed is forgotten. By the client's clock it was made at "
                f"{told_time(made_at(transaction))}, and by the server's it is "
                f"{told_time(self._sequencer.clock.now())}"
            )
        return known

    def is_forgotten(self, transaction: bytes) -> bool:
        """Whether an id that is not known may have been: its transaction can never commit now."""
        # An id older than the database cannot be a forgotten one. Clocks may differ by a day.
        seen_from = self._created - 24 * HOUR_US
        return made_between(transaction, seen_from, self._sequencer.published_time.forget_before)
