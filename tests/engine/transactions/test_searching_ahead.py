"""Conditions that are searched ahead decide as those that are evaluated in one go."""

import random
from functools import partial
from typing import Any

import pytest

from headwater_protocol.errors import ConditionFailed
from headwater_server.engine import work_budget
from headwater_server.engine.reads.filters import Criterion, EventFilter
from headwater_server.engine.transactions.searching_ahead import SearchesAhead
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.engine.work_budget import SearchAhead
from tests.engine.database import SETTINGS, Database

NEVER = EventFilter(query=(Criterion((), ("even", "odd")),))


def with_events(count: int) -> Database:
    database = Database()
    events = [[None, "T", b"", b"", [("even", "odd")[n % 2]]] for n in range(1_000)]
    for _ in range(count // 1_000):
        database.execute(["append", "t-1", -1, events])
    return database


def execute(database: Database, proven: Any, conditions: list[Any], *writes: list[Any]) -> Ticket:
    ticket, _ = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=conditions,
        reads=None,
        writes=[*writes],
        proven=proven,
    )
    database.sync()
    return ticket


def searches(database: Database, conditions: list[Any], *writes: list[Any]) -> SearchesAhead:
    return SearchesAhead(partial(database.engine.reader, step=True), conditions, [*writes])


@pytest.mark.parametrize("kind", ["condition", "append"])
def test_a_condition_that_holds_is_never_too_large(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two tags that never meet were refused as too_large once the log had 400,000 events.
    monkeypatch.setattr(work_budget, "WORK_MAX", 500)
    monkeypatch.setattr(work_budget, "SEARCHED_MAX", 100)
    database = with_events(10_000)
    put = ["put", b"k", b"v"]
    conditions = [["no_events", NEVER.as_wire(), 0]] if kind == "condition" else []
    append = ["append", "a-1", -1, [[None, "T", b"", b""]], NEVER.as_wire(), 0]
    writes = [put] if kind == "condition" else [put, append]
    with pytest.raises(SearchAhead):
        execute(database, {}, conditions, *writes)
    assert database.engine.reader().get(b"k") is None
    ahead = searches(database, conditions, *writes)
    steps = 1
    while not ahead.step():
        steps += 1
    assert steps > 2, "it is done in steps"
    # Those that came meanwhile are looked at by the evaluation itself.
    database.execute(["append", "t-1", -1, [[None, "T", b"", b"", ["odd"]]] * 100])
    assert execute(database, ahead.proven, conditions, *writes).error is None
    assert database.engine.reader().get(b"k") == b"v"


@pytest.mark.parametrize("seed", range(10))
def test_searching_ahead_beside_other_commits_changes_no_decision(seed: int) -> None:
    print("seed", seed)
    source = random.Random(seed)
    database = Database(seed=seed)

    def append() -> list[Any]:
        tags = source.sample("xyz", source.randrange(3))
        stream = source.choice(["a-1", "a-2", "b"])
        return ["append", stream, -1, [[None, source.choice("ST"), b"", b"", tags]]]

    for _ in range(60):
        database.execute(append())
    if seed % 2:
        database.execute(["truncate", "a-1", 3], ["set_retention", "b", 2, None])
    filters: list[dict[str, Any]] = [
        {"query": [{"tags": ["x", "y"]}]},
        {"prefix": "a-", "types": ["S"]},
        {"category": "b"},
        {"stream": "none"},
        {"prefix": "zzz"},
    ]
    for _ in range(15):
        conditions = [
            [
                "no_events",
                source.choice(filters),
                source.randrange(database.engine.published_position),
            ]
            for _ in range(source.randrange(1, 4))
        ]
        ahead = searches(database, conditions)
        while not ahead.step():
            if source.random() < 0.3:
                database.execute(append())
        for _ in range(source.randrange(3)):
            database.execute(append())
        outcomes = []
        for proven in (ahead.proven, None):
            error = execute(database, proven, conditions, ["put", b"k", b"v"]).error
            assert error is None or isinstance(error, ConditionFailed)
            outcomes.append(None if error is None else error.conflicts)
        assert outcomes[0] == outcomes[1]


def test_a_step_looks_at_a_bounded_number_of_entries() -> None:
    database = with_events(10_000)
    ahead = searches(database, [["no_events", NEVER.as_wire(), 0]])
    ahead.step()
    (position,) = ahead.proven.values()
    assert 0 < position <= 5 * SETTINGS.step_events_max
