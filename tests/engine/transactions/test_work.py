"""The total work of one request is bounded, and repeated work is done once."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from headwater_protocol.errors import ConditionFailed, TooLarge
from headwater_server.engine import work_budget
from headwater_server.engine.reads.filters import Criterion, EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.work_budget import Phase, WorkBudget
from tests.engine.database import Database

NEVER = EventFilter(query=(Criterion((), ("even", "odd")),))
"""Two tags that no event has together: a search looks at all entries of both."""


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[WorkBudget]:
    """Every budget that is made from now on."""
    made: list[WorkBudget] = []
    begin = WorkBudget.__init__

    def init(budget: WorkBudget, phase: Phase, **rest: Any) -> None:
        begin(budget, phase, **rest)
        made.append(budget)

    monkeypatch.setattr(WorkBudget, "__init__", init)
    return made


def with_events(count: int = 2_000) -> Database:
    database = Database()
    events = [[None, "T", b"", b"", [("even", "odd")[n % 2]]] for n in range(count)]
    database.execute(["append", "t-1", -1, events])
    return database


def unless(wanted: EventFilter, stream: str, after: int = 0) -> list[Any]:
    return ["append", stream, -1, [[None, "T", b"", b""]], wanted.as_wire(), after]


@pytest.mark.source
def test_equal_conditions_are_evaluated_once(budgets: list[WorkBudget]) -> None:
    database = with_events()
    condition = ["no_events", NEVER.as_wire(), 0]
    database.execute(["put", b"k", b"v"], conditions=[condition])
    (once,) = budgets
    budgets.clear()
    database.execute(["put", b"k", b"v"], conditions=[condition] * 1_000)
    (often,) = budgets
    assert often.entries == once.entries > 1_000
    budgets.clear()
    database.execute(unless(NEVER, "a-1"))
    (append,) = budgets
    budgets.clear()
    database.execute(*[unless(NEVER, f"b-{number}") for number in range(100)])
    (appends,) = budgets
    assert appends.entries == append.entries > 1_000


def test_equal_conditions_that_fail_are_reported_once() -> None:
    database = with_events(10)
    condition = ["no_events", {"stream": "t-1"}, 0]
    with pytest.raises(ConditionFailed) as failure:
        database.execute(["put", b"k", b"v"], conditions=[condition] * 50)
    assert len(failure.value.conflicts) == 1


@pytest.mark.source
def test_a_key_in_overlapping_range_deletes_is_counted_once(budgets: list[WorkBudget]) -> None:
    database = Database()
    database.execute(*[["put", b"k%03d" % number, b"v"] for number in range(500)])
    ranges = [(b"k100", b"k300"), (b"k000", b"k200"), (b"k150", b"k160"), (b"k400", None)]
    deletes = [["delete_range", *each] for each in ranges * 50]
    database.execute(["put", b"k450", b"kept"], *deletes, ["put", b"k120", b"kept"])
    (budget,) = budgets
    assert budget.deleted == 400
    keys = database.engine.reader().scan(b"", None, 1_000, False).items[::2]
    assert keys == [b"k120", *(b"k%03d" % number for number in range(300, 400))]


READS: dict[str, Callable[[Reader], object]] = {
    "get": lambda reader: reader.get(b"absent"),
    "scan": lambda reader: reader.scan(b"", None, 100, False),
    "reverse scan": lambda reader: reader.scan(b"", None, 100, True),
    "read_stream": lambda reader: reader.read_stream("t-1", 0, 100, False),
    "read_all": lambda reader: reader.read_all(0, EventFilter(), 100, False),
    "read_all with a filter": lambda reader: reader.read_all(0, NEVER, 100, False),
    "load": lambda reader: reader.load("absent", "", 0),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("hiding", [False, True])
def test_every_read_of_an_execute_is_charged_and_too_many_are_refused_without_effect(
    name: str, hiding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = with_events()
    database.execute(*[["put", b"k%d" % number, b"v"] for number in range(100)])
    if hiding:
        database.execute(["truncate", "t-1", 5])
    monkeypatch.setattr(work_budget, "WORK_MAX", 10_000)
    before = database.engine.published
    done = itertools.count()

    def reads(reader: Reader) -> list[Any]:
        for _ in range(20_000):
            READS[name](reader)
            next(done)
        return []

    with pytest.raises(TooLarge, match=r"the reads of an execute: .* allowed are 10000 together"):
        database.execute(["put", b"k", b"v"], reads=reads)
    assert next(done) <= 10_000
    assert database.engine.published == before
    database.execute(["put", b"k", b"v"], reads=lambda reader: [READS[name](reader)])


@pytest.mark.source
def test_a_scan_is_charged_for_the_deleted_keys_that_it_passes(budgets: list[WorkBudget]) -> None:
    database = Database()
    database.execute(*[["put", b"k%05d" % number, b"v"] for number in range(5_000)])
    database.execute(["delete_range", b"k", None])
    budgets.clear()
    database.execute(reads=lambda reader: [reader.scan(b"", None, 10, False).items])
    (budget,) = budgets
    assert 4_000 <= budget.entries <= 6_000


def test_conditions_reads_and_range_deletes_of_a_request_share_its_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = with_events(700)
    database.execute(*[["put", b"k%03d" % number, b"v"] for number in range(150)])
    monkeypatch.setattr(work_budget, "WORK_MAX", 250)
    parts: list[dict[str, Any]] = [
        {"conditions": [["no_events", NEVER.as_wire(), 0]]},
        {"reads": lambda reader: [reader.get(b"k") for _ in range(150)]},
        {"writes": [["delete_range", b"k", b"l"]]},
    ]
    for part in parts[:2]:
        database.execute(["put", b"x", b"v"], **part)
    for first, second in itertools.combinations(parts, 2):
        both = {**first, **second}
        with pytest.raises(TooLarge, match="allowed are 250 together"):
            database.execute(["put", b"x", b"w"], *both.pop("writes", []), **both)
    assert database.engine.reader().get(b"x") == b"v"
    database.execute(*parts[2]["writes"])
