"""How entries of the state store are packed, where that is done in bulk."""

import struct

import pytest

from headwater_protocol.errors import FormatTooNew
from headwater_server.engine.format.index_keys import (
    ABORTED,
    CATEGORY,
    CHANGE_EXISTS,
    CHANGE_REPLACED,
    DELETED,
    EVENT_ID,
    HEAD_SIZE,
    META,
    POSTINGS,
    REMOVED,
    RETAINED,
    STREAM,
    TAG,
    TYPE,
    change_end,
    history_key,
    history_prefix,
    latest_commit,
    latest_value,
    parse_changes,
    parse_history_key,
    parse_latest,
    parse_latest_value,
    version_heads,
)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (250, 260), (2**32 - 2, 2**32 + 2), (7, 6)])
def test_the_heads_of_many_versions_are_those_of_each(first: int, last: int) -> None:
    heads = version_heads(first, last)
    for place, commit in enumerate(range(first, last + 1)):
        head = heads[HEAD_SIZE * place : HEAD_SIZE * (place + 1)]
        assert head + b"value" == latest_value(commit, b"value")
        assert head[:8] + DELETED == latest_value(commit, None)
    assert len(heads) == HEAD_SIZE * (last - first + 1)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_a_key_of_any_size_is_found_in_its_history_key(size: int) -> None:
    key = bytes(range(256)) * 300
    key = key[:size]
    assert history_prefix(key) == size.to_bytes(4, "big") + key
    assert parse_history_key(history_key(key, 2**40)) == (key, 2**40)


def packed(changes: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(
        commit.to_bytes(8, "big") + change_end(history_prefix(key), flags)
        for commit, flags, key in changes
    )


def test_changes_are_parsed_as_they_were_packed() -> None:
    changes = [
        (commit, flags, b"k" * size)
        for commit, size in ((1, 0), (2**40, 300), (2**40, 7))
        for flags in (0, CHANGE_EXISTS, CHANGE_REPLACED, CHANGE_EXISTS | CHANGE_REPLACED)
    ]
    assert parse_changes(packed(changes)) == changes
    for size in (0, 7, 300):
        of_one_size = [change for change in changes if len(change[2]) == size]
        assert parse_changes(packed(of_one_size)) == of_one_size
    # The first and the last key have the same size, but not the one between them.
    changes = [(1, 1, b"k" * 13), (2, 1, b""), (3, 1, b"k" * 13)]
    assert parse_changes(packed(changes)) == changes
    assert parse_changes(b"") == []


def test_truncated_changes_are_damage() -> None:
    changes = [(5, CHANGE_EXISTS, b"key"), (6, CHANGE_EXISTS, b"another")]
    entry = packed(changes)
    for end in range(1, len(entry)):
        if entry[:end] == packed(changes[:1]):
            continue
        with pytest.raises(struct.error):
            parse_changes(entry[:end])


def test_a_version_with_flags_of_a_later_version_is_refused_and_never_read_as_a_value() -> None:
    expires = (7).to_bytes(8, "big") + b"\x02" + (10**15).to_bytes(8, "big") + b"value"
    for parse in (parse_latest, parse_latest_value):
        with pytest.raises(FormatTooNew, match="flags 2"):
            parse(expires)
    assert latest_commit(expires) == 7


def test_kinds_of_entries_leave_the_upper_half_of_the_bytes_free() -> None:
    kinds = [META, STREAM, CATEGORY, TYPE, TAG, EVENT_ID, RETAINED, ABORTED, REMOVED]
    for kind in [*kinds, *POSTINGS.values()]:
        assert kind[0] < 0x80
