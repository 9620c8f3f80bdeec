"""Transactions: reads of their own writes, and the read set.

Each test of the read set reads in a transaction, commits a write of another transaction, and then
commits the first. It must conflict exactly if the write could change the result of the read.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from headwater_protocol.errors import Conflict, InvalidArgument, NotANumber, TooLarge
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.transactions.transaction import Transaction
from tests.engine.database import SETTINGS, Database


def event(name: str, data: bytes = b"") -> list[Any]:
    return [None, name, data, b""]


def append(stream: str, *names: str, expect: int = -1) -> list[Any]:
    return ["append", stream, expect, [event(name) for name in names]]


def number(value: float) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def types(stored: list[bytes]) -> list[str]:
    return [decode_event(each).type for each in stored]


# Reads of its own writes.


def test_a_transaction_sees_its_own_writes_and_nobody_else_does() -> None:
    database = Database()
    database.execute(["put", b"a", b"1"], ["put", b"b", b"2"], ["put", b"n", number(5)])
    running = database.begin()
    running.write([["put", b"a", b"new"], ["delete", b"b"], ["add", b"n", 2], ["add", b"m", 3]])
    assert [running.get(key) for key in (b"a", b"b", b"n", b"m")] == [
        b"new",
        None,
        number(7),
        number(3),
    ]
    page = running.scan(b"", None, 10, False)
    assert page.items == [b"a", b"new", b"m", number(3), b"n", number(7)]
    reader = database.engine.reader()
    assert [reader.get(key) for key in (b"a", b"b", b"n", b"m")] == [b"1", b"2", number(5), None]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_sees_its_own_range_delete_and_later_puts(reverse: bool) -> None:
    database = Database()
    database.execute(*[["put", key, b"old"] for key in (b"a", b"b", b"c", b"d", b"e")])
    running = database.begin()
    running.write([["delete_range", b"b", b"e"], ["put", b"c", b"new"]])
    keys = [b"a", b"c", b"e"]
    if reverse:
        keys.reverse()
    assert running.scan(b"", None, 10, reverse).items[::2] == keys
    page = running.scan(b"", None, 2, reverse)
    assert (page.items[::2], page.more) == (keys[:2], True)
    assert running.scan(b"", None, 3, reverse).more is False
    assert running.get(b"d") is None


def test_an_add_on_a_value_that_is_not_a_number_fails_at_the_read_and_the_commit() -> None:
    database = Database()
    database.execute(["put", b"k", b"text"])
    running = database.begin()
    running.write([["add", b"k", 1]])
    with pytest.raises(NotANumber):
        running.get(b"k")
    with pytest.raises(NotANumber):
        running.scan(b"", None, 10, False)
    with pytest.raises(NotANumber):
        database.commit(running)


def test_own_events_follow_the_stored_ones() -> None:
    database = Database()
    database.execute(append("a", "One", "Two"))
    running = database.begin()
    running.write([append("a", "Three"), append("b", "Other"), append("a", "Four")])

    def read(after: int, limit: int, reverse: bool) -> tuple[list[str], bool]:
        page = running.read_stream("a", after, limit, reverse)
        assert page.version == 4
        return types(page.events), page.more

    assert read(0, 10, False) == (["One", "Two", "Three", "Four"], False)
    assert read(0, 3, False) == (["One", "Two", "Three"], True)
    assert read(0, 4, False) == (["One", "Two", "Three", "Four"], False)
    assert read(0, 2, False) == (["One", "Two"], True)
    assert read(1, 2, False) == (["Two", "Three"], True)
    assert read(2, 9, False) == (["Three", "Four"], False)
    assert read(3, 9, False) == (["Four"], False)
    assert read(4, 9, False) == ([], False)
    assert read(9, 9, False) == ([], False)
    assert read(0, 10, True) == (["Four", "Three", "Two", "One"], False)
    assert read(0, 1, True) == (["Four"], True)
    assert read(0, 3, True) == (["Four", "Three", "Two"], True)
    assert read(4, 2, True) == (["Three", "Two"], True)
    assert read(3, 9, True) == (["Two", "One"], False)
    assert read(1, 9, True) == ([], False)


def test_own_events_have_versions_but_no_position() -> None:
    database = Database()
    database.execute(append("a", "One"))
    running = database.begin()
    running.write([["append", "a", -1, [[bytes(range(16)), "Two", b"d", b"m"]]]])
    found = decode_event(running.read_stream("a", 1, 10, False).events[0])
    assert (found.position, found.commit, found.version) == (0, 0, 2)
    assert (found.stream, found.id, found.data, found.metadata) == (
        "a",
        bytes(range(16)),
        b"d",
        b"m",
    )
    assert (
        running.read_all(0, EVERYTHING, 10, False).events
        == database.engine.reader().read_all(0, EVERYTHING, 10, False).events
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_of_own_events_has_the_same_bounds_as_any_page(reverse: bool) -> None:
    # A transaction may hold 32 MiB of events, and an answer is a frame of 16 MiB at most.
    database = Database()
    database.execute(["append", "a", -1, [event("Stored", bytes(PAGE_SIZE_MAX // 2))]])
    running = database.begin()
    third = PAGE_SIZE_MAX // 3
    running.write([["append", "a", -1, [event(f"T{n}", bytes(third)) for n in range(5)]]])
    found: list[str] = []
    after = 0
    while True:
        page = running.read_stream("a", after, 100, reverse)
        assert page.events
        assert sum(map(len, page.events)) <= PAGE_SIZE_MAX
        found += types(page.events)
        after = decode_event(page.events[-1]).version
        if not page.more:
            break
    wanted = ["Stored", "T0", "T1", "T2", "T3", "T4"]
    assert found == (wanted[::-1] if reverse else wanted)


def test_load_returns_own_events_and_own_snapshots() -> None:
    database = Database()
    database.execute(append("a", "One", "Two"), ["save_snapshot", "a", "", 1, 2, b"at two"])
    running = database.begin()
    running.write([append("a", "Three", "Four")])
    loaded = running.load("a", "", 1)
    assert (loaded.version, loaded.snapshot) == (4, (2, b"at two"))
    assert types(loaded.events) == ["Three", "Four"]
    running.write([["save_snapshot", "a", "", 1, 3, b"at three"]])
    loaded = running.load("a", "", 1)
    assert (loaded.version, loaded.snapshot, types(loaded.events)) == (
        4,
        (3, b"at three"),
        ["Four"],
    )
    assert running.load("a", "", 2).snapshot is None


def test_a_read_only_transaction_refuses_writes() -> None:
    database = Database()
    running = database.begin(read_only=True)
    running.write([])
    with pytest.raises(InvalidArgument, match="read-only"):
        running.write([["put", b"k", b"v"]])


# The read set.


def database_with_data() -> Database:
    database = Database()
    database.execute(
        *[["put", key, b"old"] for key in (b"b", b"d", b"f", b"h")],
        append("account-a", "Opened", "Changed"),
        append("order-1", "Placed"),
    )
    return database


def conflicts(database: Database, running: Transaction, *writes: list[Any]) -> bool:
    """Commit these writes in another transaction; return whether *running* then conflicts."""
    database.execute(*writes)
    try:
        database.commit(running, ["put", b"result", b"1"])
    except Conflict:
        return True
    return False


def test_a_read_of_a_missing_key_is_in_the_read_set() -> None:
    for key in (b"b", b"absent"):
        database = database_with_data()
        running = database.begin()
        running.get(key)
        assert conflicts(database, running, ["put", key, b"new"])


def test_a_key_that_was_read_conflicts_with_its_deletion_and_with_the_same_value() -> None:
    for write in (["delete", b"b"], ["put", b"b", b"old"], ["delete_range", b"a", b"c"]):
        database = database_with_data()
        running = database.begin()
        running.get(b"b")
        assert conflicts(database, running, write)


def test_a_neighbouring_key_is_not_in_the_read_set() -> None:
    database = database_with_data()
    running = database.begin()
    running.get(b"b")
    assert not conflicts(database, running, ["put", b"b\0", b"new"], ["put", b"a", b"new"])


def test_reads_of_own_writes_are_not_in_the_read_set() -> None:
    database = database_with_data()
    running = database.begin()
    running.write([["put", b"b", b"mine"], ["delete_range", b"c", b"e"]])
    assert running.get(b"b") == b"mine"
    assert running.get(b"d") is None
    assert not conflicts(database, running, ["put", b"b", b"new"], ["put", b"d", b"new"])


def test_an_add_reads_nothing_until_its_result_is_read() -> None:
    for read_result in (False, True):
        database = Database()
        database.execute(["put", b"n", number(5)])
        running = database.begin()
        running.write([["add", b"n", 1]])
        if read_result:
            running.get(b"n")
        assert conflicts(database, running, ["add", b"n", 10]) is read_result


RANGE_CASES = [
    # start, end, limit, reverse, key of another transaction, whether that is a conflict
    (b"a", b"g", 9, False, b"a", True),
    (b"a", b"g", 9, False, b"c", True),
    (b"a", b"g", 9, False, b"f\xff", True),
    (b"a", b"g", 9, False, b"g", False),
    (b"x", b"z", 9, False, b"y", True),
    (b"x", None, 9, False, b"\xff" * 9, True),
    # The scan stopped at d, so it did not read later keys.
    (b"a", b"g", 2, False, b"d", True),
    (b"a", b"g", 2, False, b"d\0", False),
    (b"a", b"g", 2, False, b"f", False),
    # There are exactly three keys. The scan went on to the end to learn that there are no more.
    (b"a", b"g", 3, False, b"f\0", True),
    # A reverse scan stopped at d, so it did not read smaller keys.
    (b"a", b"g", 2, True, b"d", True),
    (b"a", b"g", 2, True, b"f\xff", True),
    (b"a", b"g", 2, True, b"c\xff", False),
    (b"a", b"g", 2, True, b"b", False),
    (b"a", b"g", 3, True, b"a", True),
]


@pytest.mark.parametrize(("start", "end", "limit", "reverse", "key", "expected"), RANGE_CASES)
def test_a_range_is_read_up_to_where_the_scan_stopped(
    start: bytes, end: bytes | None, limit: int, reverse: bool, key: bytes, expected: bool
) -> None:
    database = database_with_data()
    running = database.begin()
    running.scan(start, end, limit, reverse)
    assert conflicts(database, running, ["put", key, b"new"]) is expected


def test_a_scanned_range_conflicts_with_a_deletion_or_a_put_in_it() -> None:
    for write in (["delete", b"d"], ["put", b"d", b"old"], ["delete_range", b"c", b"e"]):
        database = database_with_data()
        running = database.begin()
        running.scan(b"a", b"g", 9, False)
        assert conflicts(database, running, write)


def test_a_scanned_range_conflicts_with_a_key_that_was_put_and_deleted_again() -> None:
    database = database_with_data()
    running = database.begin()
    assert running.scan(b"x", b"z", 9, False).items == []
    database.execute(["put", b"y", b"1"])
    assert conflicts(database, running, ["delete", b"y"])


@pytest.mark.parametrize("stream", ["account-a", "no such stream"])
def test_a_stream_that_was_read_conflicts_with_any_append_to_it(stream: str) -> None:
    database = database_with_data()
    running = database.begin()
    # Every page contains the stream's version, so later events matter to a short page, too.
    running.read_stream(stream, 0, 1, False)
    assert conflicts(database, running, append(stream, "Changed"))


def test_loading_a_stream_is_a_read_and_appending_is_not() -> None:
    database = database_with_data()
    running = database.begin()
    running.write([append("account-a", "Changed")])
    assert not conflicts(database, running, append("account-a", "Changed"))
    running = database.begin()
    running.load("account-a", "", 0)
    assert conflicts(database, running, append("account-a", "Changed"))


def test_load_reads_the_snapshot_even_if_there_is_none() -> None:
    for stored in (False, True):
        database = database_with_data()
        if stored:
            database.execute(["save_snapshot", "account-a", "", 0, 1, b"s"])
        running = database.begin()
        running.load("account-a", "", 0)
        assert conflicts(database, running, ["save_snapshot", "account-a", "", 0, 2, b"s"])
        running = database.begin()
        running.load("account-a", "", 0)
        assert not conflicts(database, running, ["save_snapshot", "account-a", "", 1, 2, b"s"])


QUERY_CASES: list[tuple[EventFilter, list[Any], bool]] = [
    (EVERYTHING, append("anything", "Any"), True),
    (EventFilter(stream="account-a"), append("account-a", "Any"), True),
    (EventFilter(stream="account-a"), append("account-b", "Any"), False),
    (EventFilter(category="account"), append("account-z", "Any"), True),
    (EventFilter(category="account"), append("accounts-z", "Any"), False),
    (EventFilter(prefix="acc"), append("accounts-z", "Any"), True),
    (EventFilter(prefix="account-a"), append("account-b", "Any"), False),
    (EventFilter(types=("Opened", "Closed")), append("any", "Other", "Closed"), True),
    (EventFilter(types=("Opened", "Closed")), append("any", "Other"), False),
    (EventFilter(category="account", types=("Closed",)), append("account-a", "Opened"), False),
    (EventFilter(category="account", types=("Closed",)), append("account-a", "Closed"), True),
    (EventFilter(types=("NeverSeen",)), append("any", "NeverSeen"), True),
]


@pytest.mark.parametrize(("wanted", "write", "expected"), QUERY_CASES)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_query_that_reached_the_end_conflicts_with_any_new_event_that_matches(
    wanted: EventFilter, write: list[Any], expected: bool, reverse: bool
) -> None:
    database = database_with_data()
    running = database.begin()
    running.read_all(0, wanted, 10, reverse)
    assert conflicts(database, running, write) is expected


def test_a_query_that_stopped_before_the_end_never_conflicts() -> None:
    database = database_with_data()
    running = database.begin()
    assert running.read_all(0, EVERYTHING, 2, False).more
    running.read_all(3, EVERYTHING, 10, True)
    assert not conflicts(database, running, append("anything", "Any"))


def test_a_reverse_query_that_starts_beyond_the_end_conflicts_with_new_events() -> None:
    # The query starts below position 5, and position 4 does not exist yet. It was treated as a
    # query of existing events only, which cannot change. So the commit succeeded, although the
    # query would have returned event 4 at its place in the serial order.
    database = database_with_data()
    running = database.begin()
    assert len(running.read_all(5, EVERYTHING, 10, True).events) == 3
    assert conflicts(database, running, append("anything", "Any"))
    running = database.begin()
    running.read_all(5, EVERYTHING, 10, True)
    assert not conflicts(database, running, append("anything", "Any"))


def test_a_snapshot_transaction_keeps_no_read_set() -> None:
    database = database_with_data()
    running = database.begin(isolation="snapshot")
    running.get(b"b")
    running.scan(b"", None, 10, False)
    running.load("account-a", "", 0)
    running.read_all(0, EVERYTHING, 10, False)
    assert running.read_set is None
    assert not conflicts(database, running, ["put", b"b", b"new"], append("account-a", "Any"))


def test_the_read_set_has_an_exact_bound() -> None:
    database = Database(replace(SETTINGS, read_set_size_max=4))
    running = database.begin()
    running.get(b"a")
    running.get(b"a")
    running.scan(b"", None, 10, False)
    running.read_stream("s", 0, 10, False)
    running.read_all(0, EVERYTHING, 10, False)
    running.read_all(0, EVERYTHING, 10, False)
    with pytest.raises(TooLarge, match="allowed are 4"):
        running.get(b"b")


def test_the_read_set_keeps_the_order_of_reads() -> None:
    # An error lists conflicts in this order. If it depended on Python's hash seed, a simulation
    # would not be reproducible.
    database = Database()
    running = database.begin()
    keys = [bytes([letter]) for letter in b"qwertyuiop"]
    for key in keys:
        running.get(key)
        running.read_stream(key.decode(), 0, 1, False)
    database.execute(*[["put", key, b""] for key in keys])
    with pytest.raises(Conflict) as failure:
        database.commit(running, ["put", b"k", b"v"])
    assert [conflict["key"] for conflict in failure.value.conflicts] == keys
    assert running.read_set is not None
    assert list(running.read_set.streams) == [key.decode() for key in keys]


@pytest.mark.parametrize("layer", ["active", "frozen", "files"])
def test_a_transaction_does_not_see_a_repeated_append_twice(
    layer: str,
) -> None:
    # The commit recognised the event ids and appended nothing, but reads in the transaction
    # returned the events twice.
    database = Database()
    committed = ["append", "a", -1, [[bytes([n]) * 16, "One", b"", b""] for n in (1, 2)]]
    database.execute(committed)
    if layer == "frozen":
        assert database.engine.begin_checkpoint() is not None
    elif layer == "files":
        database.checkpoint()
    running = database.begin()
    running.write([committed, ["append", "a", -1, [[b"3" * 16, "Two", b"", b""]]]])
    for reverse in (False, True):
        page = running.read_stream("a", 0, 10, reverse)
        found = [(event.version, event.position) for event in map(decode_event, page.events)]
        assert (page.version, sorted(found)) == (3, [(1, 1), (2, 2), (3, 0)])
    assert running.load("a", "", 0).version == 3
    assert database.commit(running)[2:] == [3, 3, {"a": 3}]


def test_an_append_that_was_committed_after_the_read_view_is_seen_as_new() -> None:
    database = Database()
    write = ["append", "a", -1, [[b"1" * 16, "One", b"", b""]]]
    running = database.begin()
    database.execute(write)
    running.write([write])
    assert running.read_stream("a", 0, 10, False).version == 1


READS_OF_LONG_NAMES: dict[str, Callable[[Transaction, str], object]] = {
    "an absent key": lambda running, name: running.get(name.encode()),
    "an empty range": lambda running, name: running.scan(
        name.encode(), name.encode() + b"x", 10, False
    ),
    "a stream": lambda running, name: running.read_stream(name, 0, 10, False),
    "a query": lambda running, name: running.read_all(
        0, EventFilter(query=(Criterion((), (name,)), Criterion((name + "x",)))), 10, False
    ),
    "a page of a query": lambda running, name: running.read_all(
        0, EventFilter(types=("T", name)), 1, False
    ),
}


@pytest.mark.parametrize("kind", READS_OF_LONG_NAMES)
def test_a_transaction_is_charged_for_the_names_that_it_has_read(kind: str) -> None:
    # 3,000 reads of absent keys of 8 KiB held 24 MiB and were charged as 450 KB.
    database = Database()
    database.execute(["append", "a", -1, [[None, "T", b"", b""]] * 3])
    running = database.begin()
    read = READS_OF_LONG_NAMES[kind]
    before = running.held_size
    for number in range(20):
        read(running, f"{number}".ljust(500, "n"))
    held = running.held_size - before
    assert 20 * 500 <= held <= 20 * 3_000
    for number in range(20):
        read(running, f"{number}".ljust(500, "n"))
    assert running.held_size - before == held, "what was read before is held once"
