"""The write buffer: how writes are merged, reads of own writes, and the bounds."""

import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from headwater_protocol import limits
from headwater_protocol.errors import HeadwaterError, InvalidArgument, NotANumber, TooLarge
from headwater_server.engine.format.atomics import Atomic
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.transactions.write_buffer import (
    Append,
    WriteBuffer,
    evaluate,
    next_key,
)

USER = b"\x01"


def folded(*writes: list[Any]) -> WriteBuffer:
    buffer = WriteBuffer()
    buffer.add(list(writes))
    return buffer


def seen(buffer: WriteBuffer, stored: dict[bytes, bytes], *, reverse: bool = False) -> list[bytes]:
    """The user keys that a scan returns when the buffer lies over these stored keys."""
    return [key[1:] for key, _ in scanned(buffer, stored, b"\x01", b"\x02", reverse=reverse)]


def scanned(
    buffer: WriteBuffer,
    stored: dict[bytes, bytes],
    start: bytes,
    end: bytes,
    *,
    reverse: bool = False,
) -> list[tuple[bytes, bytes]]:
    below: Iterator[tuple[bytes, bytes]] = iter(
        [
            (USER + key, stored[key])
            for key in sorted(stored, reverse=reverse)
            if start <= USER + key < end
        ]
    )
    return list(buffer.overlay(below, start, end, reverse=reverse))


def number(value: float) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def test_the_last_write_of_a_key_counts() -> None:
    buffer = folded(["put", b"k", b"1"], ["delete", b"k"], ["put", b"k", b"2"])
    assert buffer.entries == {b"\x01k": b"2"}
    assert folded(["put", b"k", b"1"], ["delete", b"k"]).entries == {b"\x01k": None}


def test_atomic_operations_on_a_buffered_value_are_evaluated_immediately() -> None:
    assert folded(["put", b"k", number(5)], ["add", b"k", 2]).entries == {b"\x01k": number(7)}
    assert folded(["delete", b"k"], ["max", b"k", 2]).entries == {b"\x01k": number(2)}
    with pytest.raises(NotANumber):
        folded(["put", b"k", number(5) + b"!"], ["add", b"k", 2])


def test_atomic_operations_on_a_stored_value_are_kept_in_order() -> None:
    buffer = folded(["add", b"k", 2], ["min", b"k", 4], ["add", b"k", 1])
    entry = buffer.entries[b"\x01k"]
    assert entry == [Atomic("add", 2), Atomic("min", 4), Atomic("add", 1)]
    assert evaluate(entry, number(9)) == number(5)
    assert evaluate(entry, None) == number(3)


def test_a_range_delete_drops_the_entries_in_it_and_no_others() -> None:
    buffer = folded(
        ["put", b"a", b"1"],
        ["put", b"b", b"2"],
        ["add", b"c", 1],
        ["put", b"d", b"4"],
        ["delete_range", b"b", b"d"],
    )
    assert set(buffer.entries) == {b"\x01a", b"\x01d"}
    assert not buffer.covers(b"\x01a")
    assert buffer.covers(b"\x01b")
    assert buffer.covers(b"\x01c")
    assert not buffer.covers(b"\x01d")


def test_a_write_after_a_range_delete_survives_it() -> None:
    buffer = folded(["delete_range", b"a", None], ["put", b"k", b"1"], ["add", b"n", 3])
    stored = {b"k": b"old", b"m": b"old", b"n": number(100)}
    assert seen(buffer, stored) == [b"k", b"n"]
    # The value below the add was deleted, so the result is the operand.
    assert buffer.entries[b"\x01n"] == number(3)


def test_a_range_delete_drops_an_earlier_add() -> None:
    buffer = folded(["add", b"n", 3], ["delete_range", b"n", b"o"], ["add", b"n", 4])
    assert buffer.entries == {b"\x01n": number(4)}


def test_a_range_delete_without_an_end_covers_user_keys_only() -> None:
    buffer = folded(["delete_range", b"", None])
    assert buffer.covers(b"\x01" + b"\xff" * limits.KEY_SIZE_MAX)
    assert not buffer.covers(b"\x02account-ann\0\0")
    assert not buffer.covers(b"\x03nann")


@pytest.mark.parametrize(("start", "end"), [(b"b", b"a"), (b"a", b"a")])
def test_a_range_that_ends_where_it_begins_is_refused(start: bytes, end: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not below end"):
        folded(["delete_range", start, end])


def test_overlay_agrees_with_a_dict_in_both_directions() -> None:
    for seed in range(300):
        source = random.Random(seed)
        keys = [bytes([letter]) for letter in b"abcdefgh"]
        stored = {key: number(source.randint(0, 9)) for key in source.sample(keys, 4)}
        buffer = WriteBuffer()
        truth = dict(stored)
        for _ in range(source.randint(0, 8)):
            key = source.choice(keys)
            match source.randrange(4):
                case 0:
                    truth[key] = number(source.randint(10, 19))
                    buffer.add([["put", key, truth[key]]])
                case 1:
                    truth.pop(key, None)
                    buffer.add([["delete", key]])
                case 2:
                    truth[key] = number(msgpack.unpackb(truth.get(key, number(0))) + 1)
                    buffer.add([["add", key, 1]])
                case _:
                    start, end = sorted(source.sample(keys, 2))
                    for each in [each for each in truth if start <= each < end]:
                        del truth[each]
                    buffer.add([["delete_range", start, end]])
        start, end = sorted(source.sample(keys, 2))
        for reverse in (False, True):
            wanted = [
                (USER + key, truth[key])
                for key in sorted(truth, reverse=reverse)
                if start <= key < end
            ]
            found = scanned(buffer, stored, USER + start, USER + end, reverse=reverse)
            assert found == wanted, f"seed {seed}"


def test_appends_are_kept_in_order_with_their_conditions() -> None:
    first, second = ([None, name, b"", b""] for name in ("First", "Second"))
    buffer = folded(
        ["append", "a", -1, [first]],
        ["append", "b", 3, [second], {"types": ["Second"]}, 7],
        ["append", "a", -1, [second], None],
    )
    assert [(a.stream, a.expect, a.events, a.unless, a.after) for a in buffer.appends] == [
        ("a", -1, [first], None, 0),
        ("b", 3, [second], EventFilter(types=("Second",)), 7),
        ("a", -1, [second], None, 0),
    ]


def test_an_append_knows_its_sizes_and_whether_it_has_ids_and_tags() -> None:
    plain = Append("a", -1, [[None, "T", b"12", b"3"], [None, "T", b"1", b"", []]])
    assert (plain.size, plain.largest, plain.has_ids, plain.has_tags) == (4, 3, False, False)
    full = Append("a", -1, [[None, "T", b"12", b""], [bytes(16), "T", b"1", b"", ["ab", "c"]]])
    assert (full.size, full.largest, full.has_ids, full.has_tags) == (6, 4, True, True)


def test_a_snapshot_is_an_entry_of_the_key_space_of_snapshots() -> None:
    buffer = folded(["save_snapshot", "account-ann", "totals", 1, 42, b"state"])
    assert list(buffer.entries.values()) == [b"state"]
    assert next(iter(buffer.entries)).startswith(b"\x02account-ann\0totals\0")
    assert seen(buffer, {}) == []


def test_an_empty_buffer_is_false_and_any_write_makes_it_true() -> None:
    assert not WriteBuffer()
    assert folded(["delete", b"k"])
    assert folded(["delete_range", b"", None])
    assert folded(["append", "a", -1, [[None, "T", b"", b""]]])


def test_no_key_is_between_a_key_and_the_next() -> None:
    assert b"k" < next_key(b"k") <= b"k\0"


# Bounds.


def test_the_number_of_writes_has_an_exact_bound() -> None:
    writes = [["put", place.to_bytes(4, "big"), b""] for place in range(limits.WRITES_MAX)]
    buffer = folded(*writes)
    buffer.add([["put", writes[0][1], b"again"]])
    with pytest.raises(TooLarge, match=f"{limits.WRITES_MAX + 1} writes"):
        buffer.add([["put", b"one more", b""]])


def test_the_bytes_of_writes_have_an_exact_bound() -> None:
    chunk = limits.VALUE_SIZE_MAX
    whole, rest = divmod(limits.TRANSACTION_SIZE_MAX - 1, chunk + 2)
    writes = [["put", bytes([place]), bytes(chunk)] for place in range(whole)]
    buffer = folded(*writes, ["put", b"\xff", bytes(rest - 1)])
    assert buffer.size == limits.TRANSACTION_SIZE_MAX
    with pytest.raises(TooLarge, match=f"allowed are {limits.TRANSACTION_SIZE_MAX}"):
        buffer.add([["delete", b""]])


def test_the_number_of_range_deletes_has_an_exact_bound() -> None:
    ranges = [["delete_range", b"a", b"b"]] * limits.RANGE_DELETES_MAX
    buffer = folded(*ranges)
    with pytest.raises(TooLarge, match="range deletes"):
        buffer.add([["delete_range", b"a", b"b"]])


def test_the_number_of_events_has_an_exact_bound() -> None:
    event = [None, "T", b"", b""]
    buffer = folded(["append", "a", -1, [event] * limits.EVENTS_MAX])
    with pytest.raises(TooLarge, match=f"{limits.EVENTS_MAX + 1} events"):
        buffer.add([["append", "b", -1, [event]]])


@pytest.mark.parametrize(
    "wrong", [["delete_range", b"b", b"a"], ["add", b"text", 1]], ids=["range", "add"]
)
def test_a_list_of_writes_that_failed_midway_cannot_commit_in_part(wrong: list[Any]) -> None:
    # A client may pipeline a write request and a commit. The second write of the request failed,
    # the first stayed in the buffer, and the commit made it durable.
    buffer = folded(["put", b"text", b"no number"])
    with pytest.raises(HeadwaterError) as failure:
        buffer.add([["put", b"k", b"half"], wrong])
    for later in ([], [["put", b"other", b"1"]]):
        with pytest.raises(type(failure.value), match="earlier write"):
            buffer.add(later)
