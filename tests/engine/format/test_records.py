"""Records of the log decode to what was encoded, and have the same effect when applied."""

import random

import msgpack
import pytest

from headwater_protocol.errors import FormatTooNew
from headwater_server.engine.format.planned import ABORT, TICK
from headwater_server.engine.format.records import (
    Record,
    decode_record,
    encode_abort,
    encode_commit,
    encode_tick,
)
from headwater_server.engine.transactions.replaying import plan_records
from tests.engine.database import Database

TRANSACTION = bytes(range(16))


def encoded(record: Record) -> bytes:
    return encode_commit(*record[:8])


def test_a_commit_record_decodes_to_what_was_encoded() -> None:
    record = Record(
        7,
        TRANSACTION,
        1_700_000_000_000_000,
        3,
        (b"\x01k", b"v", b"\x01gone", None, b"\x02a\0\0" + bytes(12), b""),
        12,
        (b"one", b"two"),
        (1, bytes(16)),
    )
    assert decode_record(encoded(record)) == record


def test_an_abort_record_says_who_and_when() -> None:
    found = decode_record(encode_abort(TRANSACTION, 5, 3))
    assert found == Record(0, TRANSACTION, 5, 3, kind=ABORT)


def test_a_tick_says_the_time_and_what_follows_from_it() -> None:
    found = decode_record(encode_tick(9, 4, 7))
    assert found == Record(0, b"", 9, 0, kind=TICK, horizon=4, forget_before=7)


def test_records_of_format_3_are_read() -> None:
    commit = [7, TRANSACTION, 5, 3, [b"\x01k", None], 2, [b"event"], [0, TRANSACTION]]
    assert decode_record(msgpack.packb(commit)) == Record(
        7, TRANSACTION, 5, 3, (b"\x01k", None), 2, (b"event",), (0, TRANSACTION)
    )
    abort = [0, TRANSACTION, 5, 3]
    assert decode_record(msgpack.packb(abort)) == Record(0, TRANSACTION, 5, 3, kind=ABORT)


@pytest.mark.parametrize(
    "members",
    [
        [2, 1, 7, TRANSACTION, 5, 0, [], 1, [], [], None],
        [1, 4, 7, TRANSACTION, 5, 0, [], 1, [], [], None],
        [1, 1, 7, TRANSACTION, 5, 0, [], 1, [], [], {1: b"new"}],
        [1, 1, 7, TRANSACTION, 5, 0, [], 1, [], [], None, None],
        [1, 2, TRANSACTION, 5, 0, {}],
        [1, 3, 5, 0, 0, 1],
        [1, 9],
    ],
)
def test_a_record_of_a_newer_version_is_refused(members: list[object]) -> None:
    with pytest.raises(FormatTooNew, match="a newer version of Headwater wrote it"):
        decode_record(msgpack.packb(members))


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
    for record in group.records:
        replayed.apply(plan_records(replayed, [decode_record(record)]))
    active = replayed.active
    assert active.chains == original.chains
    given = [each.commit_record() for each in original.commits]
    assert [each.commit_record() for each in active.commits] == given
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


def test_a_record_out_of_order_fails_an_assertion() -> None:
    state = Database().engine._state
    with pytest.raises(AssertionError, match="in commit order"):
        state.apply(plan_records(state, [Record(2, TRANSACTION, 5, 0, [], 1, [], [])]))
    with pytest.raises(AssertionError, match="dense"):
        state.apply(plan_records(state, [Record(1, TRANSACTION, 5, 0, [], 2, [], [])]))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 65536])
def test_a_commit_record_is_msgpack_whatever_the_sizes(size: int, count: int) -> None:
    if count > 16:
        size = min(size, 1)
    source = random.Random(size)
    content = source.randbytes(size)
    writes = [member for _ in range(count // 2) for member in (content, content)]
    flat = [*writes, b"", None]
    for events in ([content] * count, []):
        record = encode_commit(2**64 - 1, TRANSACTION, 2**63, 2**32, flat, 5, events, [])
        found = msgpack.unpackb(record)
        assert found == [1, 1, 2**64 - 1, TRANSACTION, 2**63, 2**32, flat, 5, events, [], None]
