"""A memtable is freed piece by piece. The tests of the layers and of the model cover its reads."""

import itertools
import random
from collections.abc import Sized
from typing import Any

import pytest

from headwater_server.engine.format.index_keys import CATEGORY, STREAM
from headwater_server.engine.format.planned import ABORT, COMMIT, Planned
from headwater_server.engine.state.memtable import PIECE_ENTRIES, MemTable
from headwater_server.engine.state.names import names_with_prefix
from tests.engine.written import Written

COMMITS = 5 * PIECE_ENTRIES
"""Commits of a memtable that takes many pieces."""


class Value(bytes):
    """A value. The class counts how many of its objects were freed."""

    freed = 0

    def __del__(self) -> None:
        Value.freed += 1


def put(commit: int, key: bytes) -> Planned:
    """A commit that puts one key."""
    return Planned(COMMIT, b"%016d" % commit, commit, 0, commit, 1, [key, Value(b"%d" % commit)])


def memtable_of(keys: int) -> MemTable:
    """A memtable with COMMITS puts of this many keys; half of the keys are already sorted."""
    memtable = MemTable(0, 0)
    for commit in range(1, COMMITS + 1):
        memtable.apply([put(commit, b"%d" % (commit % keys))])
        if commit == COMMITS // 2:
            assert memtable.first_keys(b"", b"\xff", 1)
    return memtable


def sizes_of(memtable: MemTable) -> dict[str, int]:
    """The number of entries in each part of a memtable."""
    parts: dict[str, Any] = vars(memtable)
    return {
        name: len(part)
        for name, part in parts.items()
        if isinstance(part, Sized) and not isinstance(part, bytes)
    }


def test_freeing_a_memtable_leaves_nothing() -> None:
    written = Written(random.Random(1))
    for number in range(300):
        written.commit(
            {b"%d" % number: b"v", b"gone": None},
            [(f"stream-{number % 7}", "happened", b"%016d" % number)],
            tags_of={number + 1: ["one", "two"]},
        )
        if number == 150:
            assert written.state.active.first_keys(b"", b"\xff", 1)
    for kind in (STREAM, CATEGORY):
        assert names_with_prefix(written.state, kind, "stream", 7)
    memtable = written.state.active
    memtable.apply([Planned(ABORT, b"a" * 16, memtable.newest_time, 0, 0, 301, [])])
    before = sizes_of(memtable)
    assert len(before) >= 12
    assert not [name for name, size in before.items() if size == 0], "no part is empty"
    memtable.take_apart(lambda: None)
    assert not any(sizes_of(memtable).values())


@pytest.mark.parametrize("keys", [1, 7, COMMITS // 2, COMMITS])
def test_a_memtable_is_freed_in_small_pieces(keys: int) -> None:
    # Many keys, or one key with all versions: freeing either in one go takes 10 to 20 ms.
    memtable = memtable_of(keys)
    Value.freed = 0
    sizes = [sizes_of(memtable)]
    freed = [0]

    def yield_gil() -> None:
        sizes.append(sizes_of(memtable))
        freed.append(Value.freed)

    memtable.take_apart(yield_gil)
    assert Value.freed == COMMITS
    freed.append(Value.freed)
    for before, after in itertools.pairwise(freed):
        assert after - before <= PIECE_ENTRIES
    for earlier, later in itertools.pairwise(sizes):
        assert sum(earlier.values()) - sum(later.values()) <= PIECE_ENTRIES


def test_objects_that_readers_hold_stay() -> None:
    memtable = memtable_of(COMMITS)
    value, keys = memtable.chains[b"7"][1], memtable.first_keys(b"", b"\xff", 100)
    assert value is not None
    memtable.take_apart(lambda: None)
    assert value == b"7"
    assert len(keys) == 100
