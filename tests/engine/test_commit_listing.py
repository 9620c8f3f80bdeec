"""The listing of the commit log: every commit after the given one, or an error."""

import pytest

from headwater_protocol.errors import HistoryGone
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
    (oldest, *_), *_ = engine.read_commits(None, 1)
    assert oldest > 1
    for after in range(engine.published + 1):
        if after + 1 < oldest:
            with pytest.raises(HistoryGone, match=f"whose oldest is {oldest}") as caught:
                engine.read_commits(after, 10)
            assert caught.value.details == {"oldest": oldest}
        else:
            found = [entry[0] for entry in engine.read_commits(after, 1000)]
            assert found == list(range(after + 1, engine.published + 1))


def test_a_listing_without_a_beginning_has_every_commit_that_is_left() -> None:
    database = Database()
    assert database.engine.read_commits(None, 10) == []
    database.execute(["put", b"k", b"v"])
    assert [entry[0] for entry in database.engine.read_commits(None, 10)] == [1]
    engine = trimmed().engine
    found = [entry[0] for entry in engine.read_commits(None, 1000)]
    assert found == list(range(found[0], engine.published + 1))
