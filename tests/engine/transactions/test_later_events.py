"""Which queries later events match, compared with a scan of all events, and its cost."""

import random

import pytest

from headwater_protocol.errors import Conflict, TooLarge
from headwater_server.engine import work_budget
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.transactions.later_events import LaterEvents, first_event
from headwater_server.engine.work_budget import Phase, WorkBudget
from tests.engine.database import Database, all_events

STREAMS = ["a-1", "a-2", "ab-1", "b-1", "b", "plain"]
TYPES = ["One", "Two", "Three"]
QUERIES = [
    EVERYTHING,
    *(EventFilter(prefix=prefix) for prefix in ("a", "ab", "b", "pl", "none", "a-", "b-1")),
    *(EventFilter(stream=stream) for stream in ("a-1", "b", "none")),
    *(EventFilter(category=category) for category in ("a", "b", "none")),
    *(EventFilter(types=types) for types in (("One",), ("Two", "Three"), ("None",))),
    EventFilter(prefix="a", types=("Three",)),
    EventFilter(prefix="a-", types=("Two",)),
    EventFilter(category="a", prefix="a-2"),
    EventFilter(stream="a-1", types=("Three",)),
    EventFilter(query=(Criterion(("One",), ("x",)), Criterion((), ("y",)))),
]


def budget(work_max: int | None = None) -> WorkBudget:
    return WorkBudget(Phase("a test", "wait"), work_max=work_max)


TWO_TAGS = EventFilter(query=(Criterion((), ("even", "odd")),))


def tagged_in_turn(count: int) -> list[list[object]]:
    """Events with one of two tags in turn: a search for both meets them all and finds none."""
    return [[None, "One", b"", b"", [("even", "odd")[number % 2]]] for number in range(count)]


def append(source: random.Random) -> list[object]:
    events = [
        [None, source.choice(TYPES), b"", b"", source.sample("xyz", source.randrange(3))]
        for _ in range(source.randrange(1, 6))
    ]
    return ["append", source.choice(STREAMS), -1, events]


def fill(database: Database, source: random.Random, commits: int) -> None:
    for _ in range(commits):
        database.execute(append(source))
        if source.randrange(8) == 0:
            database.checkpoint()


@pytest.mark.parametrize("seed", range(12))
def test_the_first_later_event_agrees_with_a_scan_of_all_events(seed: int) -> None:
    source = random.Random(seed)
    print("seed", seed)
    database = Database(seed=seed)
    fill(database, source, 30)
    if seed % 2:
        database.execute(["truncate", "a-1", 2], ["set_retention", "b-1", 2, None])
        database.execute(append(source), ["delete_stream", "plain"])
    fill(database, source, 20)
    state = database.engine._state
    shown = [decode_event(stored) for stored in all_events(database.engine.reader(), 0, EVERYTHING)]
    for after in source.sample(range(state.last_position + 1), 12):
        queries = source.sample(QUERIES, source.randrange(1, len(QUERIES)))
        later = LaterEvents(state, after, queries, budget())
        for query in source.sample(queries, len(queries)):
            expected = next(
                (event for event in shown if event.position > after and query.fits(event)), None
            )
            assert later.first_event(query) == expected, (query, after)
            assert first_event(state, query, after, budget()) == expected, (query, after)


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_has_lost_a_match_if_a_view_had_it_and_the_newest_state_does_not(
    seed: int,
) -> None:
    source = random.Random(seed)
    print("seed", seed)
    database = Database(seed=seed)
    fill(database, source, 20)
    for stream in source.sample(STREAMS, 3):
        database.execute(["set_retention", stream, source.randrange(1, 5), None])
    fill(database, source, 10)
    views = [database.engine.published]
    for _ in range(6):
        fill(database, source, 3)
        views.append(database.engine.published)

    def events_at(view: int) -> list[StoredEvent]:
        return [decode_event(e) for e in all_events(database.engine.reader(view), 0, EVERYTHING)]

    shown = {event.position for event in events_at(views[-1])}
    for view in views:
        lost = [event for event in events_at(view) if event.position not in shown]
        position = database.engine._state.position_at(view)
        queries = source.sample(QUERIES, len(QUERIES))
        later = LaterEvents(database.engine._state, position, queries, budget())
        for query in queries:
            streams = {event.stream for event in lost if query.fits(event)}
            found = later.stream_that_lost(query)
            assert found in streams if streams else found is None, (query, view)


def used(spent: WorkBudget) -> int:
    return work_budget.WORK_MAX - spent.left


def test_all_queries_without_an_index_scan_later_events_once() -> None:
    database = Database()
    for number in range(40):
        database.execute(["append", f"s{number % 7}", -1, [[None, "One", b"", b""]] * 10])
    queries = [EventFilter(prefix=f"x{number}") for number in range(500)]
    spent = budget()
    later = LaterEvents(database.engine._state, 0, queries, spent)
    assert [later.first_event(query) for query in queries] == [None] * 500
    assert used(spent) == 400


def test_an_index_without_matches_costs_nothing_however_many_events_there_are() -> None:
    database = Database()
    for _ in range(40):
        database.execute(["append", "s-1", -1, [[None, "One", b"", b""]] * 10])
    spent = budget()
    for query in (
        EventFilter(types=("Two",)),
        EventFilter(category="a"),
        EventFilter(stream="a-1", types=("One",)),
    ):
        assert first_event(database.engine._state, query, 0, spent) is None
    assert used(spent) == 0


@pytest.mark.parametrize("ruled", [False, True])
def test_a_commit_that_would_examine_too_much_is_refused_and_changes_nothing(
    ruled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a commit used to block all clients while it scanned the events since its begin.
    monkeypatch.setattr(work_budget, "WORK_MAX", 1_000)
    database = Database()
    database.execute(["append", "s-1", -1, [[None, "One", b"", b""]]])
    if ruled:
        database.execute(["set_retention", "s-1", 5, None])
    # With a rule, any query over all streams must know who appended.
    wanted = EventFilter(types=("None",)) if ruled else TWO_TAGS
    running = [database.begin() for _ in range(2)]
    for each in running:
        assert each.read_all(0, wanted, 10, False).events == []
    for _ in range(9):
        database.execute(["append", "t-1", -1, tagged_in_turn(100)])
    database.commit(running[0], ["put", b"k", b"first"])
    database.execute(*[["append", "t-1", -1, tagged_in_turn(1_000)] for _ in range(8)])
    before = database.engine.published
    with pytest.raises(TooLarge, match=r"look at \d+ .* or more; allowed are 1000"):
        database.commit(running[1], ["put", b"k", b"second"])
    assert database.engine.published == before
    assert database.engine.reader().get(b"k") == b"first"


def test_a_conflict_found_before_the_budget_is_used_up_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A conflict can be tried again; this error would end the client's loop.
    monkeypatch.setattr(work_budget, "WORK_MAX", 100)
    database = Database()
    running = database.begin()
    running.get(b"k")
    running.read_all(0, EventFilter(prefix="x"), 10, False)
    database.execute(["put", b"k", b"v"])
    database.execute(["append", "t-1", -1, [[None, "One", b"", b""]] * 500])
    with pytest.raises(Conflict):
        database.commit(running, ["put", b"result", b""])


def test_a_query_for_everything_conflicts_with_the_first_event_however_many_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_budget, "WORK_MAX", 600)
    database = Database()
    database.execute(["append", "s-1", -1, [[None, "One", b"", b""]]])
    database.execute(["set_retention", "s-1", 5, None])
    running = database.begin()
    running.read_all(0, EVERYTHING, 10, False)
    database.execute(["append", "t-1", -1, [[None, "One", b"", b""]] * 2_000])
    with pytest.raises(Conflict):
        database.commit(running, ["put", b"result", b""])


def test_the_conditions_of_a_transaction_share_one_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_budget, "WORK_MAX", 1_000)
    database = Database()
    database.execute(["append", "t-1", -1, tagged_in_turn(1_500)])
    conditions = [["no_events", TWO_TAGS.as_wire(), number] for number in range(3)]
    database.execute(["put", b"k", b"v"], conditions=conditions[:2])
    with pytest.raises(TooLarge, match="give a later position"):
        database.execute(["put", b"k", b"w"], conditions=conditions)
    appends = [
        ["append", "a-1", -1, [[None, "One", b"", b""]], TWO_TAGS.as_wire(), number]
        for number in range(3)
    ]
    database.execute(*appends[:2])
    with pytest.raises(TooLarge, match="give a later position"):
        database.execute(*appends)
    assert database.engine.reader().get(b"k") == b"v"
