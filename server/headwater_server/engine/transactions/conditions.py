"""Conditions of an execute request: they must hold in the newest state, or it is refused."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from headwater_protocol.errors import HistoryGone, InvalidArgument
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.atomics import stored_number
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import user_range
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.appending import describe_winner, expectation_failure
from headwater_server.engine.transactions.changed_keys import ChangedKeys
from headwater_server.engine.transactions.validation import matching_event
from headwater_server.engine.work_budget import CONDITIONS, WorkBudget

_RELATIONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "less": operator.lt,
    "at_most": operator.le,
    "at_least": operator.ge,
    "greater": operator.gt,
}
"""How the stored number must compare with that of a condition."""


def failed_conditions(
    state: State, conditions: list[list[Any]], budget: WorkBudget
) -> list[dict[str, Any]]:
    """Descriptions of all conditions that do not hold. Equal conditions are evaluated once.

    Raises:
        InvalidArgument: a condition names a commit or position that does not exist yet.
        HistoryGone: a condition names a commit whose successors are no longer known.
        TooLarge: the conditions use up the budget.
    """
    failures: list[dict[str, Any]] = []
    budget.phase = CONDITIONS
    changed_keys: dict[int, ChangedKeys] = {}
    seen: set[tuple[Any, ...]] = set()
    for condition in conditions:
        if condition[0] == "no_events":
            condition = ["no_events", EventFilter.from_wire(condition[1]), condition[2]]
        # A client may repeat a condition thousands of times in a few kilobytes.
        if tuple(condition) in seen:
            continue
        seen.add(tuple(condition))
        budget.spend(keys=1)
        match condition:
            case ["value", key, value]:
                failure = _check_value(state, key, value)
            case ["compare", key, relation, number]:
                failure = _check_number(state, key, relation, number)
            case ["stream", stream, expect]:
                failure = expectation_failure(state, stream, expect, state.head(stream).version)
                if failure is not None:
                    describe_winner(state, stream, failure)
            case ["unchanged", start, end, commit]:
                _check_commit(state, commit)
                changed = changed_keys.get(commit)
                if changed is None:
                    changed = changed_keys[commit] = ChangedKeys(state, commit, budget)
                failure = _check_unchanged(state, start, end, changed)
            case ["no_events", wanted, after]:
                failure = matching_event(state, wanted, after, budget)
            case unknown:
                raise AssertionError(f"a condition {unknown!r} that the vocabulary let through")
        if failure is not None:
            failures.append(failure)
    return failures


def _check_value(state: State, key: bytes, value: bytes | None) -> dict[str, Any] | None:
    stored = state.get(keyspaces.USER + key, state.last_commit)
    if stored == value:
        return None
    if stored is None:
        found = "no value"
    else:
        found = "a value" if value is None else "another value"
    return {"kind": "condition", "key": key, "message": f"key {key!r} has {found}"}


def _check_number(state: State, key: bytes, relation: str, number: float) -> dict[str, Any] | None:
    stored = stored_number(state.get(keyspaces.USER + key, state.last_commit))
    if stored is not None and _RELATIONS[relation](stored, number):
        return None
    # Leave out the stored number: a user who may test a value may not be allowed to read it.
    words = f"holds no number that is {relation.replace('_', ' ')} {number}"
    return {"kind": "condition", "key": key, "message": f"key {key!r} {words}"}


def _check_commit(state: State, commit: int) -> None:
    """Raise if the changes since a commit are not known."""
    if commit > state.last_commit:
        raise InvalidArgument(
            f"unchanged since commit {commit}: commit {commit} was not made yet; "
            f"the newest is {state.last_commit}"
        )
    if commit < state.files.horizon and commit < state.files.applied_commit:
        raise HistoryGone(
            f"unchanged since commit {commit}: changes are known from commit "
            f"{state.files.horizon} on",
            details={"oldest": state.files.horizon},
        )


def _check_unchanged(
    state: State, start: bytes, end: bytes | None, changed: ChangedKeys
) -> dict[str, Any] | None:
    found = changed.in_range(*user_range(start, end))
    if found is None:
        return None
    key, winner = found
    return {
        "kind": "condition",
        "start": start,
        "end": end,
        "key": key[1:],
        "commit": winner,
        "transaction": state.commit_record(winner).transaction,
        "message": f"key {key[1:]!r} was written by commit {winner}",
    }
