"""The listing of the commit log: every commit after the given one, or an error."""

import itertools
import random

import pytest

from headwater_protocol.errors import HistoryGone, InvalidArgument, NoSuchCommit
from headwater_server.engine.settings import SECOND_US, EngineSettings
from tests.engine.database import Database

SEGMENT_RECORDS = 8


def trimmed() -> Database:
    """A database whose commit log begins later than with its first commit."""
    settings = EngineSettings(
        disk_reserve_size=0, history_window_us=SECOND_US, transaction_retention_us=SECOND_US
    )
    database = Database(settings)
    database.engine._state.files.commit_log._records = SEGMENT_RECORDS
    for number in range(5 * SEGMENT_RECORDS):
        database.now += SECOND_US
        database.execute(["put", b"k", b"%d" % number])
        if number % 5 == 4:
            database.checkpoint()
    return database


def test_a_listing_after_a_commit_has_all_that_follow_it_or_is_refused() -> None:
    # It began with the oldest commit that was left, and nobody noticed the gap.
    engine = trimmed().engine
    (oldest, *_), *_ = engine.looking.read_commits(None, 1)
    assert oldest > 1
    for after in range(engine.published + 1):
        if after + 1 < oldest:
            with pytest.raises(HistoryGone, match=f"whose oldest is {oldest}") as caught:
                engine.looking.read_commits(after, 10)
            assert caught.value.details == {"oldest": oldest}
        else:
            found = [entry[0] for entry in engine.looking.read_commits(after, 1000)]
            assert found == list(range(after + 1, engine.published + 1))


def test_a_listing_without_a_beginning_has_every_commit_that_is_left() -> None:
    database = Database()
    assert database.engine.looking.read_commits(None, 10) == []
    database.execute(["put", b"k", b"v"])
    assert [entry[0] for entry in database.engine.looking.read_commits(None, 10)] == [1]
    engine = trimmed().engine
    found = [entry[0] for entry in engine.looking.read_commits(None, 1000)]
    assert found == list(range(found[0], engine.published + 1))


def test_commits_are_listed_backwards_down_to_the_oldest_that_is_left() -> None:
    engine = trimmed().engine
    forwards = engine.looking.read_commits(None, 1000)
    assert engine.looking.read_commits(None, 1000, True) == forwards[::-1]
    oldest, newest = forwards[0][0], forwards[-1][0]
    for before in (oldest, oldest + 1, newest, newest + 1, newest + 99):
        wanted = [row for row in forwards[::-1] if row[0] < before]
        assert engine.looking.read_commits(before, 1000, True) == wanted
        assert engine.looking.read_commits(before, 3, True) == wanted[:3]
    assert Database().engine.looking.read_commits(None, 10, True) == []


@pytest.mark.parametrize("seed", range(5))
def test_slices_count_what_a_listing_has(seed: int) -> None:
    source = random.Random(seed)
    database = Database(seed=seed)
    for _ in range(150):
        database.now += source.choice([0, 10, 500_000, 60 * SECOND_US])
        events = [[None, "T", b"", b""]] * source.choice([0, 1, 3])
        database.execute(["put", b"k", b""], *([["append", "s", -1, events]] if events else []))
        if source.random() < 0.05:
            database.checkpoint()
    engine = database.engine
    rows = engine.looking.read_commits(None, 1000)
    first, last = rows[0][2], rows[-1][2]
    spans = [(None, None), (first, last), (first - 5, last + 10), (first + 1, (first + last) // 2)]
    for begin, end in spans:
        for slices in (1, 7, 256):
            marks = engine.looking.count_commits("time", begin, end, slices)
            assert len(marks) == slices + 1
            for before, after in itertools.pairwise(marks):
                within = [row for row in rows if before.time < row[2] <= after.time]
                assert after.commit - before.commit == len(within)
                assert after.position - before.position == sum(row[5] for row in within)
    marks = engine.looking.count_commits("time", None, None, 10)
    assert (marks[0].commit, marks[0].position) == (0, 0)
    assert (marks[-1].commit, marks[-1].position) == (engine.published, engine.published_position)
    marks = engine.looking.count_commits("commits", 10, 100, 9)
    assert [mark.commit for mark in marks] == list(range(10, 101, 10))
    assert all(rows[mark.commit - 1][2] == mark.time for mark in marks)
    assert len(engine.looking.count_commits("commits", 10, 14, 100)) == 5
    with pytest.raises(InvalidArgument, match="is empty"):
        engine.looking.count_commits("time", last, first, 5)
    assert Database().engine.looking.count_commits("time", None, None, 5) == []


def test_the_position_at_a_commit_is_known_even_if_its_record_was_trimmed() -> None:
    settings = EngineSettings(
        disk_reserve_size=0, history_window_us=SECOND_US, transaction_retention_us=SECOND_US
    )
    database = Database(settings)
    database.engine._state.files.commit_log._records = SEGMENT_RECORDS
    positions = [0]
    for number in range(5 * SEGMENT_RECORDS):
        database.now += SECOND_US
        events = [[None, "T", b"", b""]] * (number % 3)
        writes = [["append", "s", -1, events]] if events else [["put", b"k", b"%d" % number]]
        database.execute(*writes)
        positions.append(database.engine.published_position)
        if number % 5 == 4:
            database.checkpoint()
    looking = database.engine.looking
    (oldest, *_), *_ = looking.read_commits(None, 1)
    assert oldest > 2
    assert [looking.position_at(commit) for commit in range(len(positions))] == positions
    with pytest.raises(NoSuchCommit):
        looking.position_at(len(positions))
    marks = looking.count_commits("time", None, None, 4)
    assert (marks[0].commit, marks[0].position) == (oldest - 1, positions[oldest - 1])
    (recorded, _), (readable, _), (newest, time) = looking.known_span()
    assert (recorded, newest) == (oldest, len(positions) - 1)
    assert recorded <= readable <= newest
    assert time == looking.read_commits(newest - 1, 1)[0][2]


def test_a_commit_tells_all_that_it_wrote() -> None:
    database = Database()
    database.execute(["put", b"a", b"1"], ["put", b"c", b"9"])
    database.execute(
        ["put", b"a", b"2"],
        ["put", b"b", b"3"],
        ["delete", b"c"],
        ["expire", b"b", 10 * SECOND_US, None],
        ["append", "s-1", -1, [[None, "T", b"", b""]] * 2],
        ["save_snapshot", "s-1", "n", 1, 0, b"state"],
        ["set_retention", "s-2", 5, None],
    )
    looking = database.engine.looking
    for _ in range(2):
        told = looking.read_commit(2)
        assert told[:6] == looking.read_commits(1, 1)[0]
        assert told[6:] == [
            3,
            [["s-1", "n", 1, 0]],
            {"snapshots": 1, "expiries": 1, "retention": 1},
        ]
        changes, rest = looking.commit_changes(2, b"", None, 100)
        assert rest is None
        assert [tuple(change) for change in changes] == [
            (b"a", b"1", b"2", False),
            (b"b", None, b"3", False),
            (b"c", b"9", None, False),
        ]
        assert looking.commit_changes(2, b"", None, 2) == (changes[:2], b"c")
        assert looking.commit_changes(2, b"c", None, 2) == (changes[2:], None)
        assert looking.commit_changes(2, b"b", b"c", 2) == (changes[1:2], None)
        database.checkpoint()
    for commit in (0, 3):
        with pytest.raises(NoSuchCommit):
            looking.read_commit(commit)
        with pytest.raises(NoSuchCommit):
            looking.commit_changes(commit, b"", None, 1)


def test_what_is_older_than_the_window_has_its_record_and_no_contents() -> None:
    database = trimmed()
    looking = database.engine.looking
    horizon = database.engine.oldest_readable
    (oldest, *_), *_ = looking.read_commits(None, 1)
    assert oldest < horizon
    assert looking.read_commit(horizon)[6:] == [None, None, None]
    assert looking.read_commit(horizon + 1)[6] == 1
    with pytest.raises(HistoryGone) as caught:
        looking.commit_changes(horizon, b"", None, 1)
    assert caught.value.details == {"oldest": horizon + 1}
    with pytest.raises(HistoryGone):
        looking.read_commit(1)
