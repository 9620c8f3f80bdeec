"""The tree of keys, and the snapshots of a stream, compared with a scan."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.keys import decode_key, encode_key, prefix_range
from headwater_protocol.limits import PAGE_ITEMS_MAX
from tests.engine.database import SETTINGS, Database


@pytest.mark.parametrize("seed", range(8))
def test_a_level_of_the_tree_has_what_a_scan_has(seed: int) -> None:
    source = random.Random(seed)
    database = Database(seed=seed)
    members: list[Any] = ["a", "b", "longer", 0, 7, None, ("in", 1)]
    model: dict[int, dict[tuple[Any, ...], bytes]] = {0: {}}
    for _ in range(60):
        now = dict(model[max(model)])
        writes = []
        for _ in range(source.randrange(1, 6)):
            key: tuple[Any, ...] = tuple(
                source.choice(members) for _ in range(source.randrange(1, 4))
            )
            if source.random() < 0.3:
                writes.append(["delete", encode_key(key)])
                now.pop(key, None)
            else:
                writes.append(["put", encode_key(key), b"v"])
                now[key] = b"v"
        model[database.execute(*writes)[0]] = now
        if source.random() < 0.1:
            database.checkpoint()
    for view in (0, 20, max(model)):
        keys = sorted(model[view], key=encode_key)
        for prefix in [(), ("a",), ("a", "b"), ("in",), ("nothing",)]:
            wanted: list[Any] = []
            for key in keys:
                if key[: len(prefix)] == prefix and len(key) > len(prefix):
                    branch = key[: len(prefix) + 1]
                    if not wanted or wanted[-1][0] != branch:
                        wanted.append([branch, False, 0])
                    if key == branch:
                        wanted[-1][1] = True
                    else:
                        wanted[-1][2] += 1
            for count_max in (1, 3, 100):
                found = level(database, prefix, count_max, view, source.choice([1, 2, 1000]))
                assert [(each[0], each[1]) for each in found] == [(w[0], w[1]) for w in wanted]
                for (_, _, below, more), (_, _, count) in zip(found, wanted, strict=True):
                    assert below == min(count, count_max) or (more and below <= count)
                    assert more or below == count
                    assert not more or below < count or count_max < 100 or view


def level(
    database: Database, prefix: tuple[Any, ...], count_max: int, view: int, limit: int
) -> list[tuple[tuple[Any, ...], bool, int, bool]]:
    first, last = prefix_range(prefix)
    size = len(first)
    at: bytes | None = first + b"\0" if first else b""
    end = last if prefix else None
    found: list[tuple[tuple[Any, ...], bool, int, bool]] = []
    while at is not None:
        _, rows, at = database.engine.looking.branches(at, end, size, None, count_max, limit, view)
        found += [(decode_key(row[0]), *row[1:]) for row in rows]
    return found


def test_a_branch_of_many_keys_costs_what_is_counted() -> None:
    database = Database()
    for letter in ("a", "b", "c"):
        writes = [["put", encode_key((letter, number)), b""] for number in range(3_000)]
        database.execute(*writes)
    database.checkpoint()
    database.execute(["delete_range", encode_key(("b",)), encode_key(("b", 2_990))])
    for _ in range(2):
        found = level(database, (), 50, 4, 1000)
        assert [each[0] for each in found] == [("a",), ("b",), ("c",)]
        assert found[0][2:] == found[2][2:] == (50, True)
        assert found[1][2] == 10 or found[1][3]
        database.checkpoint()


def test_the_snapshots_of_a_stream_are_listed_with_the_commits_that_saved_them() -> None:
    database = Database()
    events = [[None, "T", b"", b""]] * 9
    database.execute(["append", "s-1", -1, events], ["append", "s-11", -1, events])
    for version in (2, 5, 7):
        database.execute(["save_snapshot", "s-1", "n", 1, version, b"x" * version])
    database.execute(
        ["save_snapshot", "s-1", "m", 2, 4, b""], ["save_snapshot", "s-11", "n", 1, 3, b""]
    )
    for _ in range(2):
        looking = database.engine.looking
        times = {row[0]: row[2] for row in looking.read_commits(None, 100)}
        # The server keeps two of each name and schema.
        wanted = [
            ["m", 2, 4, 5, times[5], 0],
            ["n", 1, 5, 3, times[3], 5],
            ["n", 1, 7, 4, times[4], 7],
        ]
        view, rows, cursor = looking.list_snapshots("s-1", None, PAGE_ITEMS_MAX, None)
        assert (view, rows, cursor) == (5, wanted, None)
        paged = []
        cursor = None
        while True:
            _, rows, cursor = looking.list_snapshots("s-1", cursor, 1, None)
            paged += rows
            if cursor is None:
                break
        assert paged == wanted
        _, rows, _ = looking.list_snapshots("s-1", None, 10, 3)
        assert [row[:3] for row in rows] == [["n", 1, 2], ["n", 1, 5]]
        assert looking.list_snapshots("s-2", None, 10, None)[1] == []
        database.checkpoint()


def test_all_snapshots_are_kept_by_choice_and_a_past_version_loads_from_one() -> None:
    database = Database(replace(SETTINGS, snapshots_kept=0))
    for version in range(1, 60):
        database.execute(
            ["append", "s", -1, [[None, "T", b"%d" % version, b""]]],
            ["save_snapshot", "s", "n", 1, version, b"%d" % version],
        )
        if version % 20 == 0:
            database.checkpoint()
    _, rows, _ = database.engine.looking.list_snapshots("s", None, 100, None)
    assert [row[2] for row in rows] == list(range(1, 60))
    for below in (2, 30, 59, 60):
        loaded = database.engine.reader().load("s", "n", 1, below)
        assert loaded.snapshot == (below - 1, b"%d" % (below - 1))
    # An erasure still removes those that hold what was erased.
    database.execute(["erase", "s", [41]])
    _, rows, _ = database.engine.looking.list_snapshots("s", None, 100, None)
    assert [row[2] for row in rows] == list(range(1, 41))
