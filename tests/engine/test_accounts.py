"""Accounts: the users of a database, stored in the database itself."""

from dataclasses import replace

import msgpack
import pytest

from headwater_protocol.errors import InvalidArgument, ReadOnly
from headwater_server.engine.accounts import Verifier
from headwater_server.storage.store.interface import Family, WriteBatch
from tests.engine.database import SETTINGS, Database

ANN = Verifier(b"salt-of-ann", 4096, b"a" * 32, b"A" * 32)
BOB = Verifier(b"salt-of-bob", 5000, b"b" * 32, b"B" * 32)


def test_a_user_is_found_once_it_is_durable_and_after_a_crash() -> None:
    database = Database()
    assert not database.engine.accounts.any()
    ticket = database.engine.accounts.set("ann", ANN, create=True)
    assert ticket.sequence > database.engine.durable_sequence
    assert database.engine.accounts.find("ann") is None
    assert not database.engine.accounts.any()
    database.sync()
    for again in (database, database.crash()):
        account = again.engine.accounts.find("ann")
        assert account is not None
        assert (account.number, account.name, account.verifier) == (1, "ann", ANN)
        assert again.engine.accounts.any()
        assert again.engine.accounts.find("an") is None


def test_a_user_is_created_once_and_changed_only_if_it_exists() -> None:
    database = Database()
    with pytest.raises(InvalidArgument, match="no user 'ann'"):
        database.engine.accounts.set("ann", ANN, create=False)
    database.engine.accounts.set("ann", ANN, create=True)
    # The first user counts although it is not durable yet.
    with pytest.raises(InvalidArgument, match="a user 'ann' already"):
        database.engine.accounts.set("ann", BOB, create=True)
    database.sync()
    database.settle(database.engine.accounts.set("ann", BOB, create=False))
    account = database.engine.accounts.find("ann")
    assert account is not None
    assert (account.number, account.verifier) == (1, BOB)


def test_the_number_of_a_removed_user_is_not_reused() -> None:
    database = Database()
    database.settle(database.engine.accounts.set("ann", ANN, create=True))
    database.settle(database.engine.accounts.set("bob", BOB, create=True, user=1))
    assert database.engine.accounts.names() == ["ann", "bob"]
    database.settle(database.engine.accounts.remove("ann", user=2))
    with pytest.raises(InvalidArgument, match="no user 'ann'"):
        database.engine.accounts.remove("ann")
    assert database.engine.accounts.names() == ["bob"]
    database.settle(database.engine.accounts.set("ann", ANN, create=True))
    numbers = [database.engine.accounts.find(name) for name in ("ann", "bob")]
    assert [account.number for account in numbers if account] == [4, 2]
    # The commit log still has the name of the removed user.
    assert [commit[3] for commit in database.engine.looking.read_commits(0, 10)] == [
        None,
        "ann",
        "bob",
        None,
    ]


def test_users_are_listed_in_order_without_their_numbers() -> None:
    database = Database()
    for name in ("zoë", "i", "ann", "n"):
        database.settle(database.engine.accounts.set(name, ANN, create=True))
    database.checkpoint()
    assert database.engine.accounts.names() == ["ann", "i", "n", "zoë"]


def test_users_are_not_among_the_keys() -> None:
    database = Database()
    database.settle(database.engine.accounts.set("ann", ANN, create=True))
    assert database.engine.reader().scan(b"", None, 10, False).items == []
    database.execute(["delete_range", b"", None])
    assert database.engine.accounts.names() == ["ann"]


def test_users_do_not_change_while_the_database_is_read_only() -> None:
    database = Database(replace(SETTINGS, disk_reserve_size=2**50))
    database.engine.prepare_log()
    with pytest.raises(ReadOnly):
        database.engine.accounts.set("ann", ANN, create=True)
    with pytest.raises(ReadOnly):
        database.engine.accounts.remove("ann")


def test_a_member_that_a_later_version_added_to_a_user_is_ignored() -> None:
    database = Database()
    database.settle(database.engine.accounts.set("ann", ANN, create=True))
    database.checkpoint()
    key = b"\x03nann"
    entry = database.store.get(Family.LATEST, key)
    assert entry is not None
    batch = WriteBatch()
    longer: bytes = msgpack.packb([*msgpack.unpackb(entry[9:]), "new"])
    batch.put(Family.LATEST, key, entry[:9] + longer)
    database.store.write(batch)
    database.store.flush()
    account = database.reopen().engine.accounts.find("ann")
    assert account is not None
    assert account.verifier == ANN


def test_a_limit_is_kept_beside_password_and_rights() -> None:
    database = Database()
    accounts = database.engine.accounts
    database.settle(accounts.set("ann", ANN, create=True))
    database.settle(accounts.set_limit("ann", 5000))
    database.settle(accounts.set_rights("ann", grant=True, grants=[], roles=["admin"]))
    database.settle(accounts.set("ann", ANN, create=False))
    found = database.crash().engine.accounts.find("ann")
    assert found is not None
    assert (found.request_ms, found.roles) == (5000, ("admin",))
    with pytest.raises(InvalidArgument, match="no user"):
        accounts.set_limit("bob", None)
    database.settle(accounts.set_limit("ann", None))
    cleared = accounts.find("ann")
    assert cleared is not None
    assert cleared.request_ms is None
