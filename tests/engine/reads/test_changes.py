"""Changes of keys: what each commit wrote in a range, compared with a model."""

import random
from dataclasses import replace

import pytest

from headwater_protocol import limits
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.changes import (
    COMMIT_KEYS_MAX,
    Change,
    CommitChanges,
    PartlyRead,
)
from headwater_server.engine.reads.reading import user_range
from tests.engine.database import SETTINGS, Database


def changes(
    database: Database, after: int, start: bytes = b"", end: bytes | None = None, count: int = 10**6
) -> list[CommitChanges]:
    """All changes after a commit, over as many pages as it takes."""
    found: list[CommitChanges] = []
    inside: bytes | None = None
    partly = PartlyRead()
    while True:
        reader = database.engine.reader()
        page = reader.read_changes(after, *user_range(start, end), count, inside, partly)
        if inside is not None:
            rest = page.commits.pop(0)
            assert rest.commit == found[-1].commit
            found[-1] = CommitChanges(rest.commit, found[-1].changes + rest.changes)
        found += page.commits
        assert all(len(each.changes) <= COMMIT_KEYS_MAX for each in page.commits)
        if not page.more:
            assert page.commit == reader.view
            return found
        assert page.commit > after or page.inside is not None
        after, inside = page.commit, page.inside


def test_a_large_commit_is_read_in_parts_and_nothing_is_lost_or_repeated() -> None:
    """It was read as a whole: with the old values of all its keys, up to gigabytes at once."""
    database = Database()
    keys = [b"k%05d" % number for number in range(2 * COMMIT_KEYS_MAX + 500)]
    database.execute(*(["put", key, b"1"] for key in reversed(keys)), ["put", b"z", b"1"])
    database.execute(["delete_range", b"k", b"l"], ["put", b"a", b"1"])
    first = [Change(key, None, b"1") for key in keys]
    second = [Change(key, b"1", None) for key in keys]
    for _ in range(2):
        assert changes(database, 0) == [
            (1, [*first, Change(b"z", None, b"1")]),
            (2, [Change(b"a", None, b"1"), *second]),
        ]
        assert changes(database, 0, b"k", b"l") == [(1, first), (2, second)]
        assert changes(database, 0, b"k", b"k01000") == [(1, first[:1000]), (2, second[:1000])]
        assert changes(database, 1, b"a", b"b") == [(2, [Change(b"a", None, b"1")])]
        database.checkpoint()


def test_a_page_ends_inside_of_a_commit_with_large_values() -> None:
    database = Database()
    for number in range(5):
        database.execute(["put", b"k%d" % number, bytes(limits.PAGE_SIZE_MAX // 2)])
    database.execute(["delete_range", b"k", b"l"])
    page = database.engine.reader().read_changes(5, *user_range(b"k", b"l"), 100)
    assert (page.commit, page.inside, page.more) == (5, keyspaces.USER + b"k1", True)
    assert [change.key for change in page.commits[0].changes] == [b"k0", b"k1"]
    assert [len(each.changes) for each in changes(database, 5)] == [5]


def test_a_change_has_the_value_before_and_after() -> None:
    database = Database()
    database.execute(["put", b"a", b"1"], ["put", b"b", b"5"])
    database.execute(["append", "s", -1, [[None, "T", b"", b""]]])
    database.execute(["put", b"a", b"2"], ["delete", b"never"])
    database.execute(["delete", b"a"], ["add", b"c", 1])
    expected = [
        (1, [Change(b"a", None, b"1"), Change(b"b", None, b"5")]),
        (3, [Change(b"a", b"1", b"2")]),
        (4, [Change(b"a", b"2", None), Change(b"c", None, b"\x01")]),
    ]
    for _ in range(2):
        assert changes(database, 0) == expected
        assert changes(database, 2) == expected[1:]
        assert changes(database, 0, b"b", b"c") == [(1, [Change(b"b", None, b"5")])]
        assert changes(database, 0, count=1) == expected
        database.checkpoint()


def test_only_published_commits_are_reported() -> None:
    database = Database()
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"a", b"1"]]
    )
    assert changes(database, 0) == []
    database.sync()
    assert [each.commit for each in changes(database, 0)] == [1]


@pytest.mark.parametrize("seed", range(3))
def test_changes_agree_with_a_model_in_every_layer(seed: int) -> None:
    print(f"seed {seed}")
    source = random.Random(seed)
    database = Database(replace(SETTINGS, history_window_us=40_000, examined_events_max=7))
    values: dict[bytes, bytes] = {}
    truth: list[CommitChanges] = []
    for step in range(200):
        database.now += 1000
        chosen = {b"%d" % source.randrange(9): source.randbytes(2) for _ in range(3)}
        for key in list(chosen):
            if key in values and source.random() < 0.3:
                chosen[key] = b""
        database.execute(
            *(["put", key, value] if value else ["delete", key] for key, value in chosen.items())
        )
        told = [
            Change(key, values.get(key), value or None) for key, value in sorted(chosen.items())
        ]
        truth.append(CommitChanges(database.engine.published, told))
        for key, value in chosen.items():
            values.pop(key, None)
            if value:
                values[key] = value
        if step % 17 == 0:
            database.checkpoint()
        if step % 50 == 49:
            database = database.crash()
        oldest = database.engine.oldest_readable
        after = source.randrange(oldest, database.engine.published + 1)
        assert changes(database, after, count=3) == truth[after:]
