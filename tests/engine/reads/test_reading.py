"""Reading at a view: pages, filters and the past, in every layer, against a list of all events."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol import limits
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.reads.reading import Reader
from tests.engine.database import SETTINGS, Database, all_events

STREAMS = ["account-a", "account-b", "accounts-c", "order-1", "plain", "a-account"]
TYPES = ["Opened", "Changed", "Closed"]
FILTERS = [
    EVERYTHING,
    *(EventFilter(stream=stream) for stream in ("account-a", "plain", "none")),
    *(EventFilter(category=category) for category in ("account", "accounts", "plain", "none")),
    *(EventFilter(prefix=prefix) for prefix in ("acc", "account-", "account-a", "p", "none", "a")),
    *(EventFilter(types=types) for types in (("Opened",), ("Closed", "Opened"), ("None",))),
    EventFilter(category="account", types=("Closed", "Changed")),
    EventFilter(category="account", prefix="account-b"),
    EventFilter(category="account", prefix="order"),
    EventFilter(prefix="acc", types=("Opened",)),
    EventFilter(prefix="account-", types=("Opened",)),
    EventFilter(stream="account-a", types=("Opened",)),
    EventFilter(stream="account-a", category="account"),
    EventFilter(stream="account-a", category="order"),
    EventFilter(stream="account-a", prefix="account-b"),
    EventFilter("account-a", "account", "acc", ("Opened", "Closed")),
    *(
        EventFilter(query=query)
        for query in (
            (Criterion(types=("Opened",)),),
            (Criterion(tags=("x",)),),
            (Criterion(tags=("none",)),),
            (Criterion(tags=("x", "y")),),
            (Criterion(tags=("x", "none")),),
            (Criterion(("Opened", "Closed"), ("y", "z")),),
            (Criterion(("Opened",), ("x",)), Criterion(("Closed",), ("y",)), Criterion((), ("w",))),
            (Criterion(("Opened",), ("x",)), Criterion(("Opened", "Closed"), ("x",))),
        )
    ),
    EventFilter(stream="account-a", query=(Criterion(("Opened",), ("x",)), Criterion((), ("y",)))),
    EventFilter(category="account", types=("Closed",), query=(Criterion((), ("x", "y")),)),
    EventFilter(prefix="account-", query=(Criterion((), ("x",)),)),
    EventFilter(prefix="acc", query=(Criterion((), ("x",)),)),
]


def append(
    stream: str, *names: str, data: bytes = b"", source: random.Random | None = None
) -> list[Any]:
    """An append of one event for each type name; with a *source*, the events have random tags."""
    tags = [source.sample("wxyz", source.randrange(4)) if source else [] for _ in names]
    events = [[None, name, data, b"", own] for name, own in zip(names, tags, strict=True)]
    return ["append", stream, -1, events]


def layered(seed: int, *, examined_max: int = 20_000) -> tuple[Database, list[StoredEvent]]:
    """A database with events in the files, in a frozen memtable and in the active one."""
    source = random.Random(seed)
    database = Database(replace(SETTINGS, examined_events_max=examined_max))
    for commit in range(1, 31):
        appended = [
            append(
                source.choice(STREAMS),
                *source.choices(TYPES, k=source.randint(1, 3)),
                source=source,
            )
            for _ in range(source.randint(0, 3))
        ]
        key = b"k%d" % source.randrange(9)
        database.execute(
            ["put", key, b"%d" % commit] if source.random() < 0.6 else ["delete", key], *appended
        )
        if commit in (7, 14):
            database.checkpoint()
        if commit == 22:
            assert database.engine.begin_checkpoint() is not None
    stored = all_events(database.engine.reader(), 0, EVERYTHING)
    return database, [decode_event(each) for each in stored]


def positions(stored: list[bytes]) -> list[int]:
    return [decode_event(each).position for each in stored]


def test_positions_and_commits_of_all_events_are_in_order_and_dense() -> None:
    for seed in range(3):
        _, events = layered(seed)
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        assert [event.commit for event in events] == sorted(event.commit for event in events)
        for stream in STREAMS:
            versions = [event.version for event in events if event.stream == stream]
            assert versions == list(range(1, len(versions) + 1))


@pytest.mark.parametrize("examined_max", [20_000, 1, 7])
@pytest.mark.parametrize("reverse", [False, True])
def test_filtered_pages_agree_with_a_list_of_all_events(reverse: bool, examined_max: int) -> None:
    database, events = layered(1, examined_max=examined_max)
    source = random.Random(2)
    views = [0, 3, 7, 14, 18, 22, 26, 30]
    for wanted in FILTERS:
        for view in source.sample(views, 3):
            reader = database.engine.reader(view)
            seen = [event for event in events if event.commit <= view]
            for after in (0, 1, source.randint(2, len(events)), len(seen), len(seen) + 1):
                fitting = [
                    event.position
                    for event in (reversed(seen) if reverse else seen)
                    if wanted.fits(event)
                    and (
                        (after == 0 or event.position < after)
                        if reverse
                        else event.position > after
                    )
                ]
                for limit in (1, 2, 5, 10_000):
                    found = all_events(reader, after, wanted, limit, reverse=reverse)
                    assert positions(found) == fitting[:limit], (wanted, view, after, limit)


def test_a_page_says_how_far_it_has_read_and_whether_more_may_follow() -> None:
    database = Database(replace(SETTINGS, examined_events_max=4))
    database.execute(append("a", *["Other"] * 20), append("a", "Wanted"), append("a", "Other"))
    reader = database.engine.reader()
    # Nothing matches, but the position advances, and with it a subscriber's checkpoint.
    page = reader.read_all(0, EventFilter(prefix="b"), 10, False)
    assert (page.events, page.more) == ([], True)
    assert 4 <= page.position < 22
    page = reader.read_all(0, EventFilter(types=("Wanted",)), 10, False)
    assert (positions(page.events), page.position, page.more) == ([21], 22, False)
    page = reader.read_all(0, EventFilter(types=("Wanted",)), 1, False)
    assert (positions(page.events), page.position, page.more) == ([21], 21, True)
    page = reader.read_all(21, EventFilter(types=("Wanted",)), 1, False)
    assert (page.events, page.position, page.more) == ([], 22, False)
    assert reader.read_all(22, EVERYTHING, 10, False) == (22, [], False)
    assert reader.read_all(99, EVERYTHING, 10, False) == (99, [], False)
    assert reader.read_all(1, EVERYTHING, 10, True).events == []


def brute_stream(
    events: list[StoredEvent], after: int, limit: int, reverse: bool
) -> tuple[list[int], bool]:
    if reverse:
        events = [event for event in reversed(events) if after == 0 or event.version < after]
    else:
        events = [event for event in events if event.version > after]
    return [event.version for event in events[:limit]], len(events) > limit


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_of_a_stream_are_exact_at_every_commit(reverse: bool) -> None:
    database, events = layered(3)
    for view in range(31):
        reader = database.engine.reader(view)
        for stream in (*STREAMS, "none"):
            own = [event for event in events if event.stream == stream and event.commit <= view]
            for after in range(len(own) + 3):
                for limit in (1, 2, 3, 100):
                    page = reader.read_stream(stream, after, limit, reverse)
                    versions = [decode_event(each).version for each in page.events]
                    assert page.version == len(own)
                    assert (versions, page.more) == brute_stream(own, after, limit, reverse)


def test_keys_are_read_and_scanned_as_they_were_at_every_commit() -> None:
    source = random.Random(4)
    database = Database()
    states: list[dict[bytes, bytes]] = [{}]
    for commit in range(1, 41):
        state = dict(states[-1])
        writes: list[list[Any]] = []
        for key in source.sample([b"a", b"b", b"c", b"d", b"e", b"f"], source.randint(1, 3)):
            if source.random() < 0.3:
                writes.append(["delete", key])
                state.pop(key, None)
            else:
                writes.append(["put", key, b"%d" % commit])
                state[key] = b"%d" % commit
        database.execute(*writes)
        states.append(state)
        if commit in (10, 20):
            database.checkpoint()
        if commit == 30:
            assert database.engine.begin_checkpoint() is not None
    for commit, state in enumerate(states):
        reader = database.engine.reader(commit)
        for key in (b"a", b"b", b"c", b"d", b"e", b"f", b"g"):
            assert reader.get(key) == state.get(key)
        for start, end in ((b"", None), (b"b", b"e"), (b"a\0", b"d\0"), (b"x", None), (b"c", b"c")):
            inside = [k for k in sorted(state) if k >= start and (end is None or k < end)]
            for reverse in (False, True):
                keys = inside[::-1] if reverse else inside
                for limit in (1, 2, 3, 10):
                    page = reader.scan(start, end, limit, reverse)
                    assert page.items == [part for k in keys[:limit] for part in (k, state[k])]
                    assert page.more is (len(keys) > limit)


def test_a_scan_sees_only_keys_of_users() -> None:
    database = Database()
    database.execute(
        append("a", "One"), ["save_snapshot", "a", "", 0, 1, b"s"], ["put", b"\xff" * 20, b"v"]
    )
    assert database.engine.reader().scan(b"", None, 10, False).items == [b"\xff" * 20, b"v"]


def test_the_newest_usable_snapshot_comes_with_the_events_after_it() -> None:
    database = Database(replace(SETTINGS, snapshots_kept=5))
    database.execute(append("a", "One", "Two", "Three", "Four"))
    for version in (1, 3):
        database.execute(["save_snapshot", "a", "totals", 1, version, b"v%d" % version])
    database.execute(["save_snapshot", "a", "totals", 2, 4, b"newer code"])
    database.execute(["save_snapshot", "a", "", 1, 2, b"no name"])
    database.execute(["save_snapshot", "a-b", "totals", 1, 0, b"other stream"])

    def loaded(name: str, schema: int, at_commit: int | None = None) -> tuple[Any, int]:
        found = database.engine.reader(at_commit).load("a", name, schema)
        assert found.version == 4
        return found.snapshot, len(found.events)

    assert loaded("totals", 1) == ((3, b"v3"), 1)
    assert loaded("totals", 1, at_commit=2) == ((1, b"v1"), 3)
    assert loaded("totals", 1, at_commit=1) == (None, 4)
    assert loaded("totals", 2) == ((4, b"newer code"), 0)
    assert loaded("totals", 3) == (None, 4)
    assert loaded("total", 1) == (None, 4)
    assert loaded("", 1) == ((2, b"no name"), 2)
    missing = database.engine.reader().load("none", "totals", 1)
    assert missing == (0, None, [], False, 1)


# Bounds of a page.

THIRD = PAGE_SIZE_MAX // 3


def pages_of(read: Any) -> list[int]:
    """How many items each page has, from the first to the last."""
    counts: list[int] = []
    after: Any = None
    while True:
        count, after, more = read(after)
        counts.append(count)
        if not more:
            return counts
        assert count


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layer", ["active", "files"])
def test_a_page_ends_before_its_bytes_are_exceeded_and_has_at_least_one_item(
    reverse: bool, layer: str
) -> None:
    database = Database()
    sizes = [THIRD - 100, THIRD - 100, THIRD - 100, 10, 2 * PAGE_SIZE_MAX, 10, 10]
    for place, size in enumerate(sizes):
        database.execute(["put", b"k%d" % place, bytes(size)], append("a", "T", data=bytes(size)))
    if layer == "files":
        database.checkpoint()
    reader = database.engine.reader()
    expected = [2, 1, 4] if reverse else [4, 1, 2]

    def scan(after: bytes | None) -> tuple[int, bytes, bool]:
        if reverse:
            page = reader.scan(b"", after, 100, True)
        else:
            page = reader.scan(b"" if after is None else after + b"\0", None, 100, False)
        return len(page.items) // 2, page.items[-2], page.more

    def stream(after: int | None) -> tuple[int, int, bool]:
        page = reader.read_stream("a", after or 0, 100, reverse)
        return len(page.events), decode_event(page.events[-1]).version, page.more

    def log(wanted: EventFilter) -> Any:
        def read(after: int | None) -> tuple[int, int, bool]:
            page = reader.read_all(after or 0, wanted, 100, reverse)
            return len(page.events), page.position, page.more

        return read

    for read in (
        scan,
        stream,
        log(EVERYTHING),
        log(EventFilter(stream="a")),
        log(EventFilter(category="a")),
        log(EventFilter(types=("T", "U"))),
        log(EventFilter(prefix="a")),
    ):
        assert pages_of(read) == expected


def test_a_load_of_a_long_stream_says_that_there_is_more() -> None:
    database = Database()
    database.execute(append("a", *["T"] * 5, data=bytes(THIRD)))
    loaded = database.engine.reader().load("a", "", 0)
    assert (loaded.version, len(loaded.events), loaded.more) == (5, 2, True)


def test_a_reader_stays_at_its_view() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"], append("a", "One"))
    reader: Reader = database.engine.reader()
    database.execute(["put", b"k", b"2"], append("a", "Two"))
    database.checkpoint()
    database.execute(["put", b"k", b"3"], append("a", "Three"))
    assert reader.get(b"k") == b"1"
    assert reader.read_stream("a", 0, 10, False).version == 1
    assert positions(reader.read_all(0, EVERYTHING, 10, False).events) == [1]
    assert positions(reader.read_all(0, EVERYTHING, 10, True).events) == [1]


def test_a_load_is_never_larger_than_a_frame() -> None:
    # An answer with a snapshot of 8 MiB and an event of 12 MiB would exceed the largest frame.
    half = b"." * limits.VALUE_SIZE_MAX
    database = Database()
    database.execute(append("a", "One", "Two"))
    database.execute(["save_snapshot", "a", "", 0, 2, half])
    database.execute(["append", "a", -1, [[None, "Large", half, half[: len(half) // 2]]]])
    database.execute(append("a", "Four"))
    loaded = database.engine.reader().load("a", "", 0)
    assert loaded.snapshot == (2, half)
    assert (loaded.version, loaded.events, loaded.more) == (4, [], True)
    database.execute(["save_snapshot", "a", "other", 0, 3, half])
    loaded = database.engine.reader().load("a", "other", 0)
    assert (len(loaded.events), loaded.more) == (1, False)


@pytest.mark.parametrize("examined_max", [20_000, 3])
def test_the_newest_position_is_that_of_the_last_event_that_matches(examined_max: int) -> None:
    database, events = layered(5, examined_max=examined_max)
    reader = database.engine.reader(None)
    for wanted in FILTERS:
        matching = [event.position for event in events if wanted.fits(event)]
        for before in (0, 5, len(events) // 2, len(events)):
            expected = max((one for one in matching if not before or one < before), default=0)
            position, more = reader.newest_position(before, wanted)
            while more:
                position, more = reader.newest_position(position, wanted)
            assert position == expected, (wanted, before)
