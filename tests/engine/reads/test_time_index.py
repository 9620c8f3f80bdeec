"""The position at a time: exact at its boundary, even if the commits were forgotten."""

from typing import Any

import pytest

from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.state.stored_state import StoredState
from tests.engine.database import START_US, Database, all_events


def append(*names: str) -> list[Any]:
    return ["append", "s", -1, [[None, name, b"", b""] for name in names]]


def filled(database: Database) -> Database:
    """Two events a second, at seconds 1, 2, 4, 5 …; at every third a commit without events."""
    for second in range(1, 31):
        database.now = START_US + second * 1_000_000
        database.execute(append("A", "B") if second % 3 else ["put", b"k", b"v"])
        if second % 10 == 0:
            database.checkpoint()
    return database


def expected(second: int) -> int:
    return 2 * sum(1 for s in range(1, min(second, 31)) if s % 3)


def test_the_events_after_the_position_have_the_time_or_a_later_one() -> None:
    database = filled(Database())
    engine = database.engine
    for second in range(33):
        time = START_US + second * 1_000_000
        assert engine.position_before(time) == expected(second)
        assert engine.position_before(time + 1) == expected(second + 1)
    assert engine.position_before(0) == 0


def test_the_position_is_exact_for_forgotten_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    database = filled(Database())
    # The commit log forgets whole files, and this one is not full. So pretend.
    monkeypatch.setattr(StoredState, "oldest_commit", 21)
    for second in range(33):
        time = START_US + second * 1_000_000
        assert database.engine.position_before(time) == expected(second)


def test_an_event_that_is_not_published_is_not_counted() -> None:
    database = filled(Database())
    database.now += 1_000_000
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[append("C")]
    )
    stored = all_events(database.engine.reader(), 0, EVERYTHING)
    assert database.engine.position_before(database.now + 1) == len(stored) == 40


@pytest.mark.parametrize("time", [1, START_US])
def test_a_database_without_events_begins_at_zero(time: int) -> None:
    assert Database().engine.position_before(time) == 0
