"""An event is found by its id alone, as of any commit, whatever became of it since."""

import random
from itertools import islice

import pytest

from headwater_protocol.errors import NoSuchEvent
from headwater_server.engine.format.event_ids import META_EVENT_IDS, POSITIONS_MAX
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.format.index_keys import IDS_END
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.repair.state import StateRepair
from headwater_server.storage.store.interface import Family, WriteBatch
from tests.engine.database import Database, all_events


def found(database: Database, event_id: bytes, at: int | None = None) -> StoredEvent | None:
    _, stored = database.engine.looking.find_event(event_id, at)
    return None if stored is None else decode_event(stored)


def check_all(database: Database) -> None:
    """Every visible event is found by its id, unless a later one has the same."""
    engine = database.engine
    for view in {engine.published, engine.oldest_readable, engine.published // 2}:
        if view < engine.oldest_readable:
            continue
        expected: dict[bytes, StoredEvent] = {}
        for stored in all_events(engine.reader(view), 0, EVERYTHING):
            event = decode_event(stored)
            expected[event.id] = event
        for event_id, event in expected.items():
            assert found(database, event_id, view) == event


@pytest.mark.parametrize("seed", range(12))
def test_every_event_is_found_by_its_id_at_every_commit(seed: int) -> None:
    source = random.Random(seed)
    database = Database(seed=seed)
    given = [source.randbytes(16) for _ in range(40)]
    given += [b"\x01" + source.randbytes(15) for _ in range(20)]
    for step in range(120):
        database.now += source.choice([1, 500, 20_000])
        stream = f"s-{source.randrange(6)}"
        appends = []
        used: set[tuple[str, bytes]] = set()
        for _ in range(source.choice([1, 1, 2, 3])):
            events = []
            for _ in range(source.choice([1, 1, 2, 5])):
                event_id = source.choice([None, None, source.choice(given)])
                if event_id is not None and (
                    (stream, event_id) in used or holds(database, stream, event_id)
                ):
                    event_id = None
                if event_id is not None:
                    used.add((stream, event_id))
                events.append([event_id, source.choice("TU"), b"%d" % step, b""])
            appends.append(["append", stream, -1, events])
            stream = f"s-{source.randrange(6)}"
        database.execute(*appends)
        match source.randrange(30):
            case 0:
                database.checkpoint()
            case 1:
                database = database.crash()
            case 2:
                newest = database.engine.reader().stream_version("s-1")
                database.execute(["truncate", "s-1", source.randrange(newest + 1) + 1])
            case 3:
                database.execute(["delete_stream", "s-2"])
            case 4:
                newest = database.engine.reader().stream_version("s-3")
                if newest:
                    database.execute(["erase", "s-3", [newest]])
            case 5:
                database.rewrite()
        if step % 40 == 39:
            check_all(database)
    database.checkpoint()
    check_all(database)
    check_all(database.reopen())


def holds(database: Database, stream: str, event_id: bytes) -> bool:
    head = database.engine._state.head(stream)
    return database.engine._state.event_version(stream, head, event_id) is not None


def test_an_unknown_id_is_not_found_however_near_it_is() -> None:
    database = Database()
    transaction = database.new_id()
    database.execute(["append", "s", -1, [[None, "T", b"", b""]] * 3], transaction=transaction)
    low = int.from_bytes(transaction[12:], "big")
    for _ in range(2):
        for place in (0, 1, 2):
            event_id = transaction[:12] + (low + place).to_bytes(4, "big")
            assert found(database, event_id, None) is not None
        for place in (-1, 3, 500_000):
            event_id = transaction[:12] + ((low + place) % 2**32).to_bytes(4, "big")
            assert found(database, event_id) is None
        assert found(database, bytes(16)) is None
        database.checkpoint()


def test_an_event_behind_one_that_was_stored_before_is_found() -> None:
    # Its place counts the events that were not stored again.
    database = Database()
    event_id = bytes(range(16))
    database.execute(["append", "s", -1, [[event_id, "T", b"", b""]]])
    transaction = database.new_id()
    database.execute(
        ["append", "s", -1, [[event_id, "T", b"", b""]]],
        ["append", "t", -1, [[None, "T", b"", b""]]],
        transaction=transaction,
    )
    for _ in range(2):
        (stored,) = database.engine.reader().read_stream("t", 0, 9, False).events
        event = decode_event(stored)
        assert event.id != transaction
        assert found(database, event.id) == event
        database.checkpoint()


def test_of_an_id_that_many_streams_have_the_newest_is_found() -> None:
    database = Database()
    event_id = bytes(range(16))
    count = 2 * POSITIONS_MAX
    for number in range(count):
        database.execute(["append", f"s-{number:03d}", -1, [[event_id, "T", b"", b""]]])
        if number % 50 == 49:
            database.checkpoint()
    database.checkpoint()
    event = found(database, event_id)
    assert event is not None
    assert event.stream == f"s-{count - 1:03d}"
    # Of the past, the kept positions know that.
    event = found(database, event_id, count - POSITIONS_MAX + 1)
    assert event is not None
    assert event.stream == f"s-{count - POSITIONS_MAX:03d}"


def test_a_full_entry_of_transactions_leaves_the_rest_to_their_own() -> None:
    database = Database()
    ids = [b"\x01" * 6 + number.to_bytes(4, "big") + bytes(6) for number in range(1_300)]
    assert max(ids) < IDS_END
    for part in (ids[:700], ids[700:]):
        for transaction in part:
            database.execute(["append", "s", -1, [[None, "T", b"", b""]]], transaction=transaction)
        database.checkpoint()
    for transaction in ids[::40]:
        event = found(database, transaction)
        assert event is not None
        assert event.id == transaction


def test_made_up_ids_cost_no_more_than_others() -> None:
    # All may belong to each other's transactions.
    database = Database()
    ids = [b"\x01" * 12 + number.to_bytes(4, "big") for number in range(0, 2_000, 4)]
    for transaction in ids:
        database.execute(["append", "s", -1, [[None, "T", b"", b""]]], transaction=transaction)
    for _ in range(2):
        for transaction in ids[::40]:
            event = found(database, transaction)
            assert event is not None
            assert event.id == transaction
        assert found(database, ids[-1][:-1] + b"\xff") is None
        database.checkpoint()


def test_a_hidden_event_is_not_found_and_an_erased_one_is_without_its_data() -> None:
    database = Database()
    for number in range(4):
        database.execute(["append", "s", -1, [[None, "T", b"%d" % number, b""]]])
    events = [
        decode_event(e) for e in database.engine.reader().read_stream("s", 0, 9, False).events
    ]
    database.execute(["truncate", "s", 2])
    database.execute(["erase", "s", [3]])
    for _ in range(2):
        assert found(database, events[0].id) is None
        assert found(database, events[0].id, 4) == events[0]
        erased = found(database, events[2].id)
        assert erased is not None
        assert (erased.version, erased.data) == (3, None)
        assert found(database, events[3].id) == events[3]
        assert found(database, events[3].id, 3) is None
        database.checkpoint()


def test_events_of_a_version_without_the_index_are_told() -> None:
    database = Database()
    database.execute(["append", "s", -1, [[None, "T", b"", b""]]])
    database.checkpoint()
    batch = WriteBatch()
    for kind in (b"i", b"d"):
        batch.delete_range(Family.INDEX, kind, bytes([kind[0] + 1]))
    batch.delete(Family.INDEX, META_EVENT_IDS)
    database.store.write(batch)
    (stored,) = database.engine.reader().read_stream("s", 0, 9, False).events
    old = decode_event(stored).id
    with pytest.raises(NoSuchEvent) as caught:
        found(database, old)
    assert caught.value.details == {"indexed_after": 1}
    # Later ones are found, and nothing pretends to know about the rest.
    transaction = database.new_id()
    database.execute(["append", "s", -1, [[None, "T", b"", b""]]], transaction=transaction)
    for _ in range(2):
        assert found(database, transaction) is not None
        with pytest.raises(NoSuchEvent):
            found(database, old)
        database.checkpoint()
    # A repair has them again.
    StateRepair(database.engine._state.files).rebuild_index()
    event = found(database, old)
    assert event is not None
    assert event.version == 1


def test_a_repair_rebuilds_the_index() -> None:
    database = Database()
    given = [bytes([number] * 16) for number in range(2, 9)]
    for event_id in given:
        events = [[None, "T", b"", b""], [event_id, "U", b"", b""], [None, "T", b"", b""]]
        database.execute(["append", "s", -1, events])
    database.checkpoint()
    before = index_entries(database)
    StateRepair(database.engine._state.files).rebuild_index()
    assert index_entries(database) == before
    check_all(database)


def index_entries(database: Database) -> list[tuple[bytes, bytes]]:
    found = database.store.scan(Family.INDEX, b"d", b"e")
    return [*found, *islice(database.store.scan(Family.INDEX, b"i", b"j"), 1000)]
