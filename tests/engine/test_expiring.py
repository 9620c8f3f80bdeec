"""Expiry of keys: a key whose time has come is deleted before any commit of that time."""

from dataclasses import replace

import msgpack
import pytest

from headwater_protocol.errors import ConditionFailed, Conflict
from headwater_server.engine.expiring import EXPIRED_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.changes import Change
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.state.layers import NO_EXPIRY
from headwater_server.storage.store.interface import Family
from tests.engine.database import SETTINGS, START_US, Database

AT = START_US + 10 * SECOND_US
USERS = keyspaces.USER, keyspaces.USER_END


def put_until(database: Database, key: bytes, at: int = AT, value: bytes = b"v") -> None:
    database.execute(["put", key, value], ["expire", key, None, at])


def changes_of(database: Database, commit: int) -> list[Change]:
    page = database.engine.reader().read_changes(commit - 1, *USERS, 100)
    return page.commits[0].changes if page.commits else []


def is_tidy(database: Database) -> bool:
    """Whether no expiry is left."""
    state = database.engine._state
    first, last = keyspaces.EXPIRIES, keyspaces.DUE_END
    return not list(state.scan(first, last, state.last_commit))


def test_a_key_is_seen_until_its_time_and_not_from_then_on() -> None:
    database = Database()
    put_until(database, b"k")
    database.now = AT - 1
    database.execute(["put", b"other", b""])
    assert database.engine.get(b"k") == b"v"
    database.now = AT
    database.execute(["put", b"other", b""])
    assert database.engine.get(b"k") is None
    assert is_tidy(database)


def test_a_time_to_live_counts_from_the_commit() -> None:
    database = Database()
    transaction = database.begin()
    transaction.write([["put", b"k", b"v"], ["expire", b"k", SECOND_US, None]])
    database.now += 5 * SECOND_US
    database.commit(transaction)
    assert database.engine.reader().expiry(b"k") == database.now + SECOND_US


def test_the_deletion_comes_before_the_commit_that_reaches_the_time() -> None:
    database = Database()
    put_until(database, b"k")
    database.now = AT
    number, *_ = database.execute(["put", b"other", b""])
    assert changes_of(database, number - 1) == [Change(b"k", b"v", None, expired=True)]
    assert database.engine.reader(number - 2).get(b"k") == b"v"
    assert database.engine._state.commit_record(number - 1).time >= AT


def test_conditions_and_reads_of_an_execute_see_no_expired_key() -> None:
    database = Database()
    put_until(database, b"k")
    with pytest.raises(ConditionFailed):
        database.execute(["put", b"k", b"new"], conditions=[["value", b"k", None]])
    database.now = AT
    ticket, seen = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=[["value", b"k", None]],
        reads=lambda reader: [reader.get(b"k")],
        writes=[["put", b"k", b"new"]],
    )
    database.settle(ticket)
    assert seen == [None]
    assert database.engine.get(b"k") == b"new"


def test_a_transaction_that_read_a_key_conflicts_with_its_expiry() -> None:
    database = Database()
    put_until(database, b"k")
    transaction = database.begin()
    assert transaction.get(b"k") == b"v"
    transaction.write([["put", b"copy", b"v"]])
    database.now = AT
    with pytest.raises(Conflict):
        database.commit(transaction)
    assert database.engine.get(b"copy") is None


def test_a_view_keeps_the_keys_that_it_has_seen() -> None:
    database = Database()
    put_until(database, b"k")
    transaction = database.begin()
    database.wait(10 * SECOND_US)
    assert database.engine.get(b"k") is None
    assert transaction.get(b"k") == b"v"
    assert transaction.expiry(b"k") == AT


@pytest.mark.parametrize(
    "write", [["put", b"k", b"w"], ["delete", b"k"], ["delete_range", b"", None]]
)
def test_a_put_and_a_deletion_end_the_expiry(write: list[object]) -> None:
    database = Database()
    put_until(database, b"k")
    database.execute(write)
    assert database.engine.reader().expiry(b"k") is None
    assert is_tidy(database)
    stored = database.engine.get(b"k")
    database.wait(20 * SECOND_US)
    assert database.engine.get(b"k") == stored


@pytest.mark.parametrize("before", [[], [["put", b"k", b"v"], ["delete", b"k"]]])
def test_renewing_a_key_that_the_transaction_makes_later_has_no_effect(
    before: list[list[object]],
) -> None:
    database = Database()
    transaction = database.begin()
    transaction.write([*before, ["expire", b"k", None, AT], ["add", b"k", 1]])
    assert transaction.expiry(b"k") is None
    database.commit(transaction)
    assert database.engine.reader().expiry(b"k") is None
    assert is_tidy(database)


@pytest.mark.parametrize("write", [["delete", b"k"], ["delete_range", b"a", b"z"]])
@pytest.mark.parametrize("at", [None, AT + 1])
def test_renewing_what_the_transaction_deletes_leaves_no_expiry(
    write: list[object], at: int | None
) -> None:
    database = Database()
    put_until(database, b"k")
    database.execute(write, ["expire", b"k", None, at])
    assert database.engine.get(b"k") is None
    assert is_tidy(database)


def test_atomic_operations_keep_the_expiry() -> None:
    database = Database()
    put_until(database, b"k", value=msgpack.packb(1))
    database.execute(["add", b"k", 2])
    assert database.engine.reader().expiry(b"k") == AT
    database.wait(10 * SECOND_US)
    assert database.engine.get(b"k") is None


def test_renewing_moves_the_time_and_leaves_the_value_unwritten() -> None:
    database = Database()
    put_until(database, b"k", value=bytes(10_000))
    before = database.engine._state.active.size
    database.execute(["expire", b"k", None, AT + SECOND_US])
    assert database.engine._state.active.size - before < 5_000
    assert changes_of(database, database.engine.published) == []
    database.wait(10 * SECOND_US)
    assert database.engine.get(b"k") is not None
    database.wait(SECOND_US)
    assert database.engine.get(b"k") is None
    assert is_tidy(database)


def test_an_expiry_can_be_taken_away() -> None:
    database = Database()
    put_until(database, b"k")
    database.execute(["expire", b"k", None, None])
    database.wait(20 * SECOND_US)
    assert database.engine.get(b"k") == b"v"
    assert is_tidy(database)


def test_renewing_an_absent_key_changes_nothing() -> None:
    database = Database()
    database.execute(["expire", b"k", SECOND_US, None])
    database.execute(["put", b"k", b"v"], ["delete", b"k"], ["expire", b"k", SECOND_US, None])
    assert database.engine.get(b"k") is None
    assert is_tidy(database)


def test_a_time_in_the_past_is_a_deletion() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    number, *_ = database.execute(["put", b"k", b"w"], ["expire", b"k", None, START_US])
    assert changes_of(database, number) == [Change(b"k", b"v", None)]
    database.execute(["put", b"k", b"v"])
    database.execute(["expire", b"k", None, START_US])
    assert database.engine.get(b"k") is None
    assert is_tidy(database)


def test_a_transaction_sees_its_own_expiries() -> None:
    database = Database()
    put_until(database, b"a")
    put_until(database, b"b")
    transaction = database.begin()
    transaction.write([["put", b"a", b"w"], ["put", b"c", b"w"], ["expire", b"c", None, AT]])
    assert [transaction.expiry(key) for key in (b"a", b"b", b"c", b"d")] == [None, AT, AT, None]
    assert transaction.scan_expiries(b"", None, 10, False).items[::2] == [b"b", b"c"]
    transaction.write([["put", b"c", b"w"], ["delete_range", b"b", b"c"]])
    assert transaction.scan_expiries(b"", None, 10, False).items == []


def test_a_transaction_that_read_an_expiry_conflicts_with_its_renewal() -> None:
    database = Database()
    put_until(database, b"k")
    transaction = database.begin()
    assert transaction.expiry(b"k") == AT
    database.execute(["expire", b"k", None, AT + 1])
    with pytest.raises(Conflict):
        database.commit(transaction, ["put", b"other", b""])


def test_renewals_of_one_key_do_not_conflict() -> None:
    database = Database()
    put_until(database, b"k")
    first, second = database.begin(isolation="snapshot"), database.begin(isolation="snapshot")
    database.commit(first, ["expire", b"k", None, AT + 1])
    database.commit(second, ["expire", b"k", None, AT + 2])
    assert database.engine.reader().expiry(b"k") == AT + 2


@pytest.mark.parametrize("checkpoints", [False, True])
def test_expiries_survive_a_crash_and_checkpoints(checkpoints: bool) -> None:
    database = Database()
    put_until(database, b"a")
    put_until(database, b"b", AT + SECOND_US)
    database.execute(["put", b"c", b"v"])
    if checkpoints:
        database.checkpoint()
    database = database.crash()
    database.wait(SECOND_US)
    assert database.engine.expiring.next_time == AT
    database.wait(9 * SECOND_US)
    assert [database.engine.get(key) for key in (b"a", b"b", b"c")] == [None, b"v", b"v"]
    if checkpoints:
        database.checkpoint()
    database = database.crash()
    database.wait(SECOND_US)
    assert database.engine.get(b"b") is None
    assert database.engine.expiring.next_time == NO_EXPIRY


def test_what_expired_while_the_database_was_closed_is_gone_at_the_first_commit() -> None:
    database = Database()
    put_until(database, b"k")
    database.now = AT + 3600 * SECOND_US
    database = database.reopen()
    database.execute(["put", b"other", b""], conditions=[["value", b"k", None]])
    assert database.engine.get(b"k") is None


def test_more_keys_than_a_step_deletes_expire_one_step_after_the_other() -> None:
    database = Database()
    count = EXPIRED_MAX + 10
    for first in range(0, count, 100):
        keys = [b"%06d" % number for number in range(first, min(first + 100, count))]
        writes = [write for key in keys for write in (["put", key, b""], ["expire", key, None, AT])]
        database.execute(*writes)
    database.now = AT
    assert database.engine.expiring.step()
    assert not database.engine.expiring.step()
    database.sync()
    assert database.engine.reader().scan(b"", None, 10, False).items == []
    assert is_tidy(database)


def test_a_key_that_is_put_before_those_that_were_looked_at_expires_in_time() -> None:
    database = Database()
    put_until(database, b"late", AT + 100 * SECOND_US)
    database.wait(SECOND_US)
    put_until(database, b"soon", AT)
    database.wait(10 * SECOND_US)
    assert database.engine.get(b"soon") is None
    assert database.engine.get(b"late") == b"v"


def test_the_room_of_expired_keys_is_given_back() -> None:
    database = Database(replace(SETTINGS, history_window_us=SECOND_US // 2))
    for number in range(20):
        put_until(database, b"%d" % number, value=bytes(100))
    database.checkpoint()
    assert len(list(database.store.scan(Family.LATEST, b""))) == 60
    database.wait(20 * SECOND_US)
    database.checkpoint(tidy=True)
    database.wait(2 * SECOND_US)
    database.checkpoint(tidy=True)
    assert not list(database.store.scan(Family.LATEST, b""))
    assert not list(database.store.scan(Family.HISTORY, b""))


def test_a_full_disk_delays_the_deletion() -> None:
    database = Database()
    put_until(database, b"k")
    database.engine.room.read_only_reason = "the disk is full"
    database.wait(10 * SECOND_US)
    assert database.engine.get(b"k") == b"v"
    assert database.engine.expiring.wait_us() == SECOND_US
    database.engine.room.read_only_reason = None
    database.wait(SECOND_US)
    assert database.engine.get(b"k") is None
