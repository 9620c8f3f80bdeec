"""Judges a world: runs all checkers on its history."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.simulation.consuming import consumed_out_of_turn, not_consumed
from tests.simulation.elle import check_lists
from tests.simulation.history import (
    Append,
    Attempt,
    Dump,
    Get,
    History,
    Key,
    Operation,
    Put,
    Read,
    Scan,
)
from tests.simulation.projecting import wrongly_projected
from tests.simulation.replay import check_history
from tests.simulation.workloads import ACCOUNTS, BALANCE, PAIRS


def judge(history: History, dump: Dump | None) -> list[str]:
    """The problems of a history. Without a dump, only checks that need no final state run."""
    problems = [str(anomaly) for anomaly in check_lists(_as_lists(history), _final_lists(dump))]
    problems += invariants(history)
    problems += consumed_out_of_turn(history)
    if dump is not None:
        problems += check_history(history, dump)
        problems += not_consumed(history, dump)
        problems += wrongly_projected(history, dump)
    return problems


def _list_name(key: Key) -> str:
    return f"key {key}"


def _as_lists(history: History) -> Iterator[Attempt]:
    """The attempts in the form for Elle: a list under a key becomes a list like a stream."""
    for attempt in history.attempts:
        if attempt.name == "lists":
            operations = [
                each for operation in attempt.operations for each in _list_operation(operation)
            ]
            yield replace(attempt, operations=operations)


def _list_operation(operation: Operation) -> Iterator[Operation]:
    match operation:
        case Get(key, value):
            yield Read(_list_name(key), 0, list(value or []))
        case Put(key, value):
            yield Append(_list_name(key), [(value[-1], "")])
        case _:
            yield operation


def _final_lists(dump: Dump | None) -> dict[str, list[str]]:
    if dump is None:
        return {}
    found = {_list_name(key): list(value) for key, value in dump.keys if key[0] == "list"}
    for stream, events in dump.streams.items():
        if stream.startswith("list-"):
            found[stream] = [event.element for event in events]
    return found


def invariants(history: History) -> Iterator[str]:
    """Violated invariants of the workloads. They do not depend on commit numbers."""
    for attempt in history.attempts:
        for operation in attempt.operations:
            if isinstance(operation, Scan) and operation.prefix == ("bank",):
                total = sum(balance for _, balance in operation.items)
                # There is no account before `prepare` has committed.
                if total not in (0, ACCOUNTS * BALANCE):
                    yield f"{attempt} saw {total} in all accounts: {operation.items}"
            if isinstance(operation, Scan) and operation.prefix[:1] == ("skew",):
                values: dict[Any, Any] = dict(operation.items)
                if len(values) == 2 and not any(values.values()):
                    yield f"{attempt} saw both of a pair unset: {operation.items}"
        yield from _unset_pairs(attempt)


def _unset_pairs(attempt: Attempt) -> Iterator[str]:
    seen = {each.key: each.value for each in attempt.operations if isinstance(each, Get)}
    for pair in range(PAIRS):
        if seen.get(("skew", pair, 0)) == 0 == seen.get(("skew", pair, 1)):
            yield f"{attempt} saw both of pair {pair} unset"
