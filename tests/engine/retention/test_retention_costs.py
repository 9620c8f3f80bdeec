"""The cost of retention rules: reads of streams without a rule have no extra cost.

The number of events that a read decodes depends on the events that it reads. It does not depend on
rules, nor on erasures, of streams that are not among them.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.format.stored_rules import Rule
from headwater_server.engine.reads import reading
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.retention import rules
from headwater_server.engine.state.layers import State
from tests.engine.database import Database, all_events

pytestmark = pytest.mark.source

STREAM_COUNT = 5
RULED = "ruled-1"


def append(stream: str, count: int, tag: str = "x") -> list[Any]:
    return ["append", stream, -1, [[None, "T", b"data", b"meta", [tag]]] * count]


CHANGES: dict[str, list[list[Any]]] = {
    "truncated": [["truncate", RULED, 3]],
    "capped by count": [["set_retention", RULED, 2, None]],
    "capped by age": [["set_retention", RULED, None, 1]],
    "deleted": [["delete_stream", RULED]],
    "erased": [["erase", RULED, [2]]],
    "a rule that hides nothing": [["set_retention", RULED, 100, None]],
}
WANTED = {
    "all": EVERYTHING,
    "a stream": EventFilter(stream="read-1"),
    "a category": EventFilter(category="read"),
    "a prefix with its category": EventFilter(prefix="read-1"),
    "a prefix": EventFilter(prefix="rea"),
    "a type": EventFilter(types=("T",)),
    "a tag": EventFilter(query=(Criterion(tags=("x",)),)),
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the events that reads decode."""
    count = [0]

    def counted(stored: bytes) -> StoredEvent:
        count[0] += 1
        return decode_event(stored)

    for module in (reading, rules):
        monkeypatch.setattr(module, "decode_event", counted)
    return count


def filled() -> tuple[Database, int]:
    """A database, and a position after which all events are of streams without rules."""
    database = Database()
    database.execute(append(RULED, 6))
    position = database.engine.published_position
    for number in range(1, STREAM_COUNT):
        database.execute(append(f"read-{number}", 20))
    return database, position


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wanted", WANTED)
def test_reading_decodes_as_many_events_as_if_no_other_stream_had_a_rule(
    wanted: str, change: str, reverse: bool, decoded: list[int]
) -> None:
    database, position = filled()

    def read(at_commit: int | None = None) -> tuple[list[bytes], int]:
        decoded[0] = 0
        reader = database.engine.reader(at_commit)
        if reverse:
            # From the end back to where the other streams begin.
            page = reader.read_all(0, WANTED[wanted], 20 * (STREAM_COUNT - 1), True)
            events = [stored for stored in page.events if decode_event(stored).position > position]
        else:
            events = all_events(reader, position, WANTED[wanted])
        return events, decoded[0]

    expected = read()
    before = database.engine.published
    database.execute(*CHANGES[change])
    database.now += 10
    for _ in range(2):
        for at_commit in (None, before):
            assert read(at_commit) == expected
        database.rewrite()
    database = database.reopen()
    assert read() == expected


def test_an_erasure_hides_no_events_of_its_stream() -> None:
    database, _ = filled()
    database.execute(["erase", RULED, [1, 2]])
    for _ in range(2):
        assert not database.engine._state.retention.hiding
        database.rewrite()
    database = database.reopen()
    assert not database.engine._state.retention.hiding
    database.execute(["truncate", RULED, 2])
    for _ in range(2):
        assert database.engine._state.retention.hiding.may_have(RULED)
        assert not database.engine._state.retention.hiding.may_have("read-1")
        database = database.reopen()


@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_without_a_rule_is_read_without_checks_although_another_has_one(
    change: str, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, _ = filled()
    database.execute(*CHANGES[change])
    looked_up: list[str] = []
    stored_rule = rules.stored_rule

    def counted(state: Any, stream: str, view: int) -> Rule:
        looked_up.append(stream)
        return stored_rule(state, stream, view)

    monkeypatch.setattr(rules, "stored_rule", counted)
    for reverse in (False, True):
        page = database.engine.reader().read_stream("read-1", 0, 100, reverse)
        assert len(page.events) == 20
    assert (decoded[0], looked_up) == (0, [])


def test_a_page_looks_up_each_stream_with_a_rule_once(
    monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    database, _ = filled()
    database.execute(["truncate", RULED, 3])
    looked_up: list[str] = []
    stored_rule = rules.stored_rule

    def counted(state: Any, stream: str, view: int) -> Rule:
        looked_up.append(stream)
        return stored_rule(state, stream, view)

    monkeypatch.setattr(rules, "stored_rule", counted)
    page = database.engine.reader().read_all(0, EVERYTHING, 1_000, False)
    assert len(page.events) == 84
    assert looked_up == [RULED]
    assert decoded[0] == 6, "only the stream with the rule is looked up"


def test_a_small_page_is_filled_from_large_batches_if_most_events_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Otherwise a condition, or a reader of single events, would ask once for each hidden event.
    database = Database()
    for _ in range(10):
        database.execute(append(RULED, 400))
    database.execute(append("read-1", 1))
    database.execute(append(RULED, 1))
    database.execute(["truncate", RULED, 4001])
    fetched: list[int] = []
    events_from = State.events_from

    def counted(state: State, first: int, last: int, count_max: int, size: int) -> list[bytes]:
        fetched.append(first)
        return events_from(state, first, last, count_max, size)

    monkeypatch.setattr(State, "events_from", counted)
    reader = database.engine.reader()
    page = reader.read_all(0, EVERYTHING, 1, False)
    assert len(fetched) < 20
    assert [decode_event(stored).stream for stored in page.events] == ["read-1"]
    assert (page.position, page.more) == (4001, True)
    page = reader.read_all(4001, EVERYTHING, 1, True)
    assert (page.events, page.more) == ([], False)


def test_a_page_of_hidden_events_ends_after_enough_was_examined() -> None:
    database = Database(
        settings=Database().settings.__class__(disk_reserve_size=0, examined_events_max=1000)
    )
    for _ in range(10):
        database.execute(append(RULED, 400))
    database.execute(["delete_stream", RULED])
    page = database.engine.reader().read_all(0, EVERYTHING, 1, False)
    assert page.more
    assert 1000 <= page.position < 2000
    assert all_events(database.engine.reader(), 0, EVERYTHING) == []
    assert all_events(database.engine.reader(), 0, EVERYTHING, reverse=True) == []


@pytest.mark.parametrize("seed", range(8))
def test_pages_of_all_events_have_exactly_the_visible_events(seed: int) -> None:
    source = random.Random(seed)
    print("seed", seed)
    database = Database(seed=seed)
    streams = [f"s-{number}" for number in range(6)]
    versions = dict.fromkeys(streams, 0)
    # For each view: stream and version of all events that can be read, in order of position.
    views: dict[int, list[tuple[str, int]]] = {}
    events: list[tuple[str, int]] = []
    first = dict.fromkeys(streams, 1)
    count_max: dict[str, int] = {}

    def model() -> list[tuple[str, int]]:
        for stream, count in count_max.items():
            first[stream] = max(first[stream], versions[stream] - count + 1)
        return [(stream, version) for stream, version in events if version >= first[stream]]

    def note(stream: str, count: int) -> None:
        for _ in range(count):
            versions[stream] += 1
            events.append((stream, versions[stream]))

    for _ in range(60):
        stream = source.choice(streams)
        count = source.randrange(1, 8)
        match source.randrange(8):
            case 0 if versions[stream]:
                before = source.randrange(1, versions[stream] + 2)
                database.execute(["truncate", stream, before])
                first[stream] = max(first[stream], before)
            case 1 if versions[stream]:
                database.execute(["delete_stream", stream])
                first[stream] = versions[stream] + 1
                count_max.pop(stream, None)
            case 2:
                database.execute(["set_retention", stream, count, None])
                count_max[stream] = count
            case 3:
                model()
                database.execute(["set_retention", stream, None, None])
                count_max.pop(stream, None)
            case 4 if versions[stream]:
                database.execute(["erase", stream, [source.randrange(1, versions[stream] + 1)]])
            case _:
                database.execute(append(stream, count))
                note(stream, count)
        views[database.engine.published] = model()
        if source.randrange(6) == 0:
            source.choice([database.checkpoint, database.rewrite])()
        if source.randrange(15) == 0:
            database = database.crash()
        _check_pages(database.engine.reader, views, source)


def _check_pages(
    reader_at: Callable[[int], Reader],
    views: dict[int, list[tuple[str, int]]],
    source: random.Random,
) -> None:
    view = source.choice(list(views))
    wanted = source.choice([EVERYTHING, EventFilter(category="s"), EventFilter(prefix="s")])
    limit = source.choice([1, 2, 5, 1000])
    for reverse in (False, True):
        reader = reader_at(view)
        found: list[tuple[str, int]] = []
        after = 0
        while True:
            page = reader.read_all(after, wanted, limit, reverse)
            assert len(page.events) <= limit
            taken = map(decode_event, page.events)
            found += [(event.stream, event.version) for event in taken]
            if not page.more:
                break
            after = page.position
        expected = views[view]
        assert found == (expected[::-1] if reverse else expected)
