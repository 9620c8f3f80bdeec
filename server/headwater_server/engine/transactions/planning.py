"""Planning: may a transaction commit, and what will its commit do?

    validate -> evaluate -> number -> encode        a Planned and the bytes of its record

Planning reads the newest state, including commits that are not yet durable. It may raise, but it
changes nothing, so a refused transaction leaves no trace. Applying the plan cannot fail; see
planned.py.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from headwater_protocol import limits
from headwater_protocol.errors import (
    ConditionFailed,
    Conflict,
    HeadwaterError,
    TooLarge,
    WrongVersion,
)
from headwater_server.engine.format.keyspaces import ERASURES, erased_position
from headwater_server.engine.format.planned import Planned
from headwater_server.engine.format.records import encode_commit
from headwater_server.engine.retention.rules import is_deleted
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.appending import expectation_holds
from headwater_server.engine.transactions.evaluation import evaluate_buffer
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.engine.transactions.validation import conflict_error, find_conflicts
from headwater_server.engine.transactions.write_buffer import WriteBuffer
from headwater_server.engine.work_budget import VALIDATION, WRITES, Cutting, WorkBudget

RECORD_SIZE_MAX = 2 * limits.TRANSACTION_SIZE_MAX
"""Bytes of a commit record: the largest transaction, and as much again for its results."""


class Acknowledging(Protocol):
    """Evaluates the acknowledgements of a transaction: the consumer groups."""

    def evaluate(self, acks: Sequence[tuple[str, int, int]]) -> tuple[list[bytes | None], Any]:
        """The writes of acknowledgements, and what to pass to `settle`.

        Raises:
            DeliveryLost: the consumer no longer holds one of the deliveries.
        """
        ...

    def forget_reasons(self, positions: set[int]) -> list[bytes | None]:
        """The writes that remove the reasons why events failed that are erased."""
        ...

    def settle(self, settled: Any, sequence: int) -> None:
        """The acknowledgements are sequenced, and durable once *sequence* is."""
        ...


class Planner:
    """Plans commits on one state.

    Attributes:
        acknowledging: who evaluates acknowledgements; set once, when the engine is opened.
        work: what the newest transaction was charged for; None: nothing had to be counted.
    """

    def __init__(self, state: State, settings: EngineSettings) -> None:
        self._state = state
        self._settings = settings
        self.acknowledging: Acknowledging | None = None
        self.work: WorkBudget | None = None

    def plan(self, transaction: Transaction, now: int, cutting: Cutting | None = None) -> Planned:
        """The plan of an open transaction that has writes.

        Raises:
            InSteps: it takes too long for one stretch; see work_budget.py.
            Conflict, WrongVersion, ConditionFailed: other commits stand against it.
            HeadwaterError: the transaction is not possible.
        """
        buffer = transaction.buffer
        budget = None
        conflicts: list[dict[str, Any]] = []
        if transaction.view != self._state.last_commit:
            budget = self.work = WorkBudget(VALIDATION, cutting=cutting)
            conflicts = find_conflicts(self._state, transaction, budget)
        elif cutting is not None:
            budget = WorkBudget(WRITES, cutting=cutting)
        if conflicts:
            conflicts += self._failed_expectations(
                buffer, transaction.id, transaction.user, now, budget
            )
            raise conflict_error(conflicts)
        return self.plan_buffer(
            transaction.id, transaction.user, buffer, now, transaction, budget=budget
        )

    def refuse(
        self,
        transaction: bytes,
        user: int,
        buffer: WriteBuffer,
        failed_conditions: list[dict[str, Any]],
        now: int,
        budget: WorkBudget | None,
    ) -> ConditionFailed:
        """The error of a transaction whose conditions do not hold."""
        failures = failed_conditions + self._failed_expectations(
            buffer, transaction, user, now, budget
        )
        return _condition_error(failures, retryable=False)

    def plan_buffer(
        self,
        transaction: bytes,
        user: int,
        buffer: WriteBuffer,
        now: int,
        opened: Transaction | None = None,
        *,
        budget: WorkBudget | None = None,
    ) -> Planned:
        """The plan of writes on the newest state; *opened* is their open transaction, if any.

        *budget* has the work of the request so far; None: none was charged yet.

        Raises:
            ConditionFailed, WrongVersion: a condition or an expectation does not hold.
            HeadwaterError: the transaction is not possible.
        """
        kept = self._settings.snapshots_kept
        view = None if opened is None else opened.view
        planned = evaluate_buffer(
            self._state,
            buffer,
            transaction,
            user,
            now,
            snapshots_kept=kept,
            budget=budget,
            view=view,
        )
        if buffer.acks:
            self._acknowledge(buffer, planned)
        if planned.failures:
            # An expectation that held when the transaction began lost a race, so a retry can
            # succeed. One that was wrong from the start would fail again.
            raced = (
                opened is not None
                and not planned.impossible
                and all(self._held_at(opened, failure) for failure in planned.failures)
            )
            raise _failure_error(planned.failures, retryable=raced)
        if buffer.erased and self.acknowledging is not None:
            self._forget_reasons(planned)
        planned.record = encode_commit(
            planned.commit,
            transaction,
            now,
            user,
            planned.writes,
            planned.first_position,
            planned.events,
            planned.event_ids,
        )
        if len(planned.record) > RECORD_SIZE_MAX:
            raise TooLarge(
                f"a commit record of {len(planned.record)} bytes; allowed are {RECORD_SIZE_MAX}"
            )
        return planned

    def _forget_reasons(self, planned: Planned) -> None:
        assert self.acknowledging is not None, "the engine is open"
        keys = planned.writes[::2]
        positions = {erased_position(key) for key in keys if key and key.startswith(ERASURES)}
        if not positions:
            return
        writes = self.acknowledging.forget_reasons(positions)
        taken = set(keys)
        for place in range(0, len(writes), 2):
            # An acknowledgement of the same transaction has replaced the entry already.
            if writes[place] not in taken:
                planned.writes = [*writes[place : place + 2], *planned.writes]

    def _acknowledge(self, buffer: WriteBuffer, planned: Planned) -> None:
        assert self.acknowledging is not None, "the engine is open"
        writes, planned.settled = self.acknowledging.evaluate(buffer.acks)
        # In front, because keys of retention must come last.
        planned.writes = [*writes, *planned.writes]

    def _failed_expectations(
        self,
        buffer: WriteBuffer,
        transaction: bytes,
        user: int,
        now: int,
        budget: WorkBudget | None,
    ) -> list[dict[str, Any]]:
        try:
            kept = self._settings.snapshots_kept
            planned = evaluate_buffer(
                self._state, buffer, transaction, user, now, snapshots_kept=kept, budget=budget
            )
            if buffer.acks:
                self._acknowledge(buffer, planned)
            return [*planned.failures]
        except HeadwaterError:
            # The error may be a consequence of the conflict, so only the conflict is reported.
            return []

    def _held_at(self, transaction: Transaction, failure: dict[str, Any]) -> bool:
        if failure["kind"] == "condition":
            return bool(failure["position"] > transaction.position)
        state, stream = self._state, failure["stream"]
        head = state.head(stream)
        then = state.version_at(stream, head, transaction.position)
        was_deleted = is_deleted(state, stream, then, transaction.view)
        if then == head.version and was_deleted == is_deleted(state, stream, then):
            # Nobody else has touched the stream, so a retry would fail again.
            return False
        # The transaction's own earlier appends to the stream shift both versions equally.
        own = failure["actual"] - head.version
        exists = own > 0 or (then > 0 and not was_deleted)
        return expectation_holds(failure["expected"], then + own, exists=exists)


def _condition_error(failures: Sequence[dict[str, Any]], *, retryable: bool) -> ConditionFailed:
    return ConditionFailed(
        f"{len(failures)} of the conditions do not hold: {_describe(failures[0])}",
        retryable=retryable,
        details={"conflicts": list(failures)},
    )


def _failure_error(failures: Sequence[dict[str, Any]], *, retryable: bool) -> Conflict:
    if any(failure["kind"] == "condition" for failure in failures):
        return _condition_error(failures, retryable=retryable)
    others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return WrongVersion(
        _describe(failures[0]) + others, retryable=retryable, details={"conflicts": list(failures)}
    )


def _describe(failure: dict[str, Any]) -> str:
    if failure["kind"] == "expected version":
        words = {0: "no stream", -1: "any", -2: "an existing stream"}
        expected = words.get(failure["expected"], f"version {failure['expected']}")
        if failure.get("deleted"):
            return f"stream {failure['stream']!r} was deleted, at version {failure['actual']}"
        return f"stream {failure['stream']!r} is at version {failure['actual']}, not {expected}"
    return str(failure["message"])
