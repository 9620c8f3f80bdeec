"""Records of the log: what goes in comes out, and means the same when it is installed."""

import random

import msgpack
import pytest

from headwater_server.engine.installing import install
from headwater_server.engine.records import (
    Record,
    decode_record,
    encode_abort,
    encode_commit,
    encode_writes,
)
from tests.engine.database import Database

TRANSACTION = bytes(range(16))


def test_a_commit_record_comes_out_as_it_went_in() -> None:
    record = Record(
        7,
        TRANSACTION,
        1_700_000_000_000_000,
        3,
        [b"\x01k", b"v", b"\x01gone", None, b"\x02a\0\0" + bytes(12), b""],
        12,
        [b"one", b"two"],
        [1, bytes(16)],
    )
    assert decode_record(encode_commit(record)) == record


def test_an_abort_record_has_no_more_than_who_and_when() -> None:
    found = decode_record(encode_abort(TRANSACTION, 5, 3))
    assert found == Record(0, TRANSACTION, 5, 3, [], 0, [], [])


def test_a_record_with_more_members_is_one_of_a_newer_version_and_is_read() -> None:
    record = Record(7, TRANSACTION, 5, 0, [], 1, [], [])
    assert decode_record(msgpack.packb([*record, "new"])) == record


def test_a_replayed_record_makes_the_memtable_that_the_commit_made() -> None:
    source = random.Random(1)
    database = Database()
    for place in range(40):
        events = [
            [source.randbytes(16) if source.random() < 0.5 else None, f"T{n % 3}", b"d", b""]
            for n in range(source.randint(1, 4))
        ]
        database.engine.execute(
            database.new_id(),
            user=place,
            conditions=[],
            reads=None,
            writes=[
                ["put", b"k%d" % (place % 4), b"%d" % place],
                ["delete", b"k%d" % (place % 3)],
                ["append", f"s-{place % 3}", -1, events],
                ["append", "other", -1, events[:1]],
                ["append", f"s-{place % 3}", -1, [[None, "Last", b"", b""]]],
            ],
        )
        if place == 20:
            database.engine.status(database.new_id(), resolve=True)
    group = database.engine.take_group()
    assert group is not None
    original = database.engine._state.active
    replayed = Database().engine._state
    for encoded in group.records:
        install(replayed, decode_record(encoded))
    active = replayed.active
    assert active.chains == original.chains
    assert active.commits == original.commits
    assert active.events == original.events
    assert active.transactions == original.transactions
    assert active.aborted == original.aborted
    assert active.categories == original.categories
    assert active.types == original.types
    assert active.size == original.size
    for stream, tail in original.streams.items():
        twin = active.streams[stream]
        assert (twin.id, twin.base_version, twin.positions, twin.event_ids) == (
            tail.id,
            tail.base_version,
            tail.positions,
            tail.event_ids,
        )


def test_a_record_out_of_order_is_our_own_mistake() -> None:
    state = Database().engine._state
    with pytest.raises(AssertionError, match="in commit order"):
        install(state, Record(2, TRANSACTION, 5, 0, [], 1, [], []))
    with pytest.raises(AssertionError, match="dense"):
        install(state, Record(1, TRANSACTION, 5, 0, [], 2, [], []))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 65536])
def test_a_commit_record_is_msgpack_whatever_the_sizes(size: int, count: int) -> None:
    if count > 16:
        size = min(size, 1)
    source = random.Random(size)
    content = source.randbytes(size)
    writes = [member for _ in range(count // 2) for member in (content, content)]
    events = [content] * count
    record = Record(2**64 - 1, TRANSACTION, 2**63, 2**32, [*writes, b"", None], 0, events, [])
    assert msgpack.unpackb(encode_commit(record)) == [*record]
    without = (record.commit, record.transaction, record.time, record.user, record.writes)
    found = msgpack.unpackb(encode_writes(*without, 5))
    assert found == [*without, 5, [], []]
