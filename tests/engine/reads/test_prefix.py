"""Reads by a prefix of stream names use an index, and equal a scan of all events."""

import random

import pytest

from headwater_server.engine.format.events import decode_event
from headwater_server.engine.format.index_keys import CATEGORY, STREAM
from headwater_server.engine.reads import searching
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.reads.searching import Search
from headwater_server.engine.state.names import names_in_order, names_with_prefix
from headwater_server.engine.transactions import later_events
from headwater_server.engine.transactions.later_events import LaterEvents, first_event
from headwater_server.engine.work_budget import VALIDATION, WorkBudget
from tests.engine.database import Database, all_events

STREAMS = [
    "a-1",
    "a-11",
    "a-2",
    "a",
    "ab-1",
    "ab",
    "b-1",
    "b",
    "-",
    "-x",
    "é-1",
    "\U0001f600",
    "a-",
]
PREFIXES = ["", "a", "ab", "abc", "a-", "a-1", "a-2x", "b-", "-", "-x", "é", "\U0001f600", "zzz"]


def random_database(source: random.Random) -> Database:
    database = Database(seed=source.randrange(1000))
    for _ in range(60):
        events = [
            [
                None,
                source.choice(["One", "Two"]),
                b"",
                b"",
                source.sample("xy", source.randrange(3)),
            ]
            for _ in range(source.randrange(1, 4))
        ]
        database.execute(["append", source.choice(STREAMS), -1, events])
        if source.randrange(12) == 0:
            database.checkpoint()
        if source.randrange(30) == 0 and not database.engine.checkpoints.running:
            database.engine.begin_checkpoint()
            return database
    return database


@pytest.mark.parametrize("names_max", [0, 3, 256])
@pytest.mark.parametrize("seed", range(6))
def test_a_read_by_prefix_equals_a_scan_of_all_events(
    seed: int, names_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    source = random.Random(seed)
    for module in (searching, later_events):
        monkeypatch.setattr(module, "FEW", 2)
        monkeypatch.setattr(module, "PREFIX_NAMES_MAX", names_max)
    database = random_database(source)
    reader = database.engine.reader()
    state = database.engine._state
    everything = [decode_event(stored) for stored in all_events(reader, 0, EVERYTHING)]
    for prefix in PREFIXES:
        for wanted in (
            EventFilter(prefix=prefix),
            EventFilter(prefix=prefix, types=("One",)),
            EventFilter(prefix=prefix, category="a"),
            EventFilter(prefix=prefix, stream="a-1"),
            EventFilter(prefix=prefix, query=(Criterion((), ("x",)), Criterion(("Two",), ("y",)))),
        ):
            matching = [event.position for event in everything if wanted.fits(event)]
            found = [decode_event(e).position for e in all_events(reader, 0, wanted)]
            assert found == matching, wanted
            backwards = reader.read_all(0, wanted, 10_000, True).events
            assert [decode_event(e).position for e in backwards] == matching[::-1], wanted
            after = source.randrange(reader.position)
            first = next((p for p in matching if p > after), None)
            for event in (
                first_event(state, wanted, after, WorkBudget(VALIDATION)),
                LaterEvents(state, after, [wanted], WorkBudget(VALIDATION)).first_event(wanted),
            ):
                assert (event and event.position) == first, wanted


@pytest.mark.parametrize("seed", range(4))
def test_the_names_of_all_layers_are_in_the_order_of_their_bytes(seed: int) -> None:
    print("seed", seed)
    state = random_database(random.Random(seed))
    names = {decode_event(e).stream for e in all_events(state.engine.reader(), 0, EVERYTHING)}
    for kind, every in ((STREAM, names), (CATEGORY, {name.partition("-")[0] for name in names})):
        for prefix in PREFIXES:
            expected = sorted((n for n in every if n.startswith(prefix)), key=str.encode)
            layers = state.engine._state
            assert [n for n, _ in names_in_order(layers, kind, prefix, None, 100)] == expected
            assert names_with_prefix(layers, kind, prefix, len(expected)) == expected
            if expected:
                assert names_with_prefix(layers, kind, prefix, len(expected) - 1) is None
                later = [n for n, _ in names_in_order(layers, kind, prefix, expected[0], 100)]
                assert later == expected[1:]


@pytest.mark.parametrize("prefix", ["rare", "rare-1", "common-1-", "zzz", "common-zzz"])
@pytest.mark.parametrize("in_files", [False, True])
def test_the_cost_of_a_prefix_does_not_depend_on_the_length_of_the_log(
    prefix: str, in_files: bool
) -> None:
    costs = []
    for count in (2_000, 20_000):
        database = Database()
        database.execute(["append", "rare-1", -1, [[None, "T", b"", b""]] * 3])
        database.execute(["append", "common-1-x", -1, [[None, "T", b"", b""]] * 3])
        for number in range(count // 1_000):
            events = [[None, "T", b"", b""]] * 1_000
            database.execute(["append", f"common-{number % 2 + 2}", -1, events])
        if in_files:
            database.checkpoint()
        state = database.engine._state
        wanted = EventFilter(prefix=prefix)
        search = Search(state, wanted, 0, state.last_position, reverse=False, budget=10**6)
        positions = search.take(10**6)
        assert search.over
        assert len(positions) == (0 if "zzz" in prefix else 3)
        budget = WorkBudget(VALIDATION)
        first_event(state, wanted, 3, budget)
        costs.append((search.cost, budget.work_max - budget.left))
    assert costs[0] == costs[1]
    assert costs[0][1] <= 10
