"""Seen transaction ids: none is missed, and an id from a fast clock costs other ids nothing."""

import random
from typing import Any

import pytest

from headwater_server.engine.format.index_keys import IDS_END
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.state import seen_ids
from headwater_server.engine.state.seen_ids import EARLY_MAX, SeenIds, read_seen_ids
from headwater_server.storage.store.interface import Family
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import START_US, Database

SECOND_US = 1_000_000
YEAR_US = 365 * 24 * 3600 * SECOND_US


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that are looked up among the transactions of the store."""
    keys: list[bytes] = []
    get = MemoryStore.get

    def counted(self: MemoryStore, family: Family, key: bytes) -> bytes | None:
        if family == Family.TRANSACTIONS:
            keys.append(key)
        return get(self, family, key)

    monkeypatch.setattr(MemoryStore, "get", counted)
    return keys


def commit(database: Database, ahead_us: int = 0) -> bytes:
    """A commit whose client's clock is ahead."""
    database.now += 20_000
    transaction = new_transaction_id(database.now + ahead_us, database.random)
    database.execute(["put", b"k", b"v"], transaction=transaction)
    return transaction


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead_us", [30 * SECOND_US, 2 * 3600 * SECOND_US, 10 * YEAR_US])
def test_an_early_id_costs_other_clients_no_look_up(
    ahead_us: int, restarted: bool, asked: list[bytes]
) -> None:
    database = Database()
    for _ in range(10):
        commit(database)
    early = commit(database, ahead_us)
    first = database.engine.published
    database.checkpoint()
    if restarted:
        database = database.reopen()
    # Ids that are up to a second ahead are not early.
    database.now += 2 * SECOND_US
    asked.clear()
    for _ in range(100):
        commit(database)
    assert asked == []
    ticket, _ = database.engine.execute(
        early, user=0, conditions=[], reads=None, writes=[["put", b"k", b"w"]]
    )
    assert database.settle(ticket)[0] == first, "it was committed before"


def test_clients_that_are_always_ahead_cost_others_nothing(asked: list[bytes]) -> None:
    database = Database()
    for _ in range(6):
        for _ in range(50):
            commit(database, 30 * SECOND_US)
            asked.clear()
            commit(database)
            assert asked == []
        database.checkpoint()
        database.now += 2 * SECOND_US


def test_an_early_id_is_like_any_other_once_its_time_has_come(asked: list[bytes]) -> None:
    database = Database()
    commit(database)
    commit(database, 60 * SECOND_US)
    database.checkpoint()
    database.now += 3600 * SECOND_US
    commit(database)
    database.checkpoint()
    assert database.engine._state.files.seen_ids.early == []
    database.now += 2 * SECOND_US
    asked.clear()
    commit(database)
    assert asked == []


@pytest.mark.parametrize("seed", range(8))
def test_no_id_is_missed_wherever_it_was_added(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(seed)
    print("seed", seed)
    monkeypatch.setattr(seen_ids, "EARLY_MAX", 5)
    database = Database(seed=seed)
    known: list[bytes] = []
    for _ in range(60):
        database.now += source.choice([0, 1000, SECOND_US, 3600 * SECOND_US])
        ahead = source.choice([-3600, -1, 0, 0, 0, 1, 30, 7200, 86_400 * 400]) * SECOND_US
        transaction = new_transaction_id(max(database.now + ahead, 0), source)
        if source.random() < 0.2:
            transaction = source.choice([b"\x00", b"\x01", b"\x02", b"\xf0"]) + source.randbytes(15)
        if source.random() < 0.2:
            database.engine.status(transaction, resolve=True)
            database.sync()
        else:
            database.execute(["put", b"k", b"v"], transaction=transaction)
        known.append(transaction)
        chance = source.random()
        if chance < 0.15:
            database.checkpoint()
        elif chance < 0.2:
            database = database.crash()
        for each in known:
            assert database.engine._state.transaction(each) is not None, each.hex()
        assert len(database.engine._state.files.seen_ids.early) <= 5


def test_the_greatest_of_too_many_early_ids_are_dropped() -> None:
    source = random.Random(1)
    seen = SeenIds()
    ids = [
        new_transaction_id(START_US + (number + 10) * SECOND_US, source)
        for number in range(3 * EARLY_MAX)
    ]
    for each in source.sample(ids, len(ids)):
        seen.note(each, START_US)
    assert seen.early == ids[:EARLY_MAX]
    assert all(map(seen.may_have, ids))
    # A new id below the greatest known one needs no look-up; an id above it does.
    assert not seen.may_have(new_transaction_id(START_US + 100 * SECOND_US, source))
    assert seen.may_have(new_transaction_id(START_US + 2 * EARLY_MAX * SECOND_US, source))


def test_the_store_is_read_again_once_time_has_passed_the_dropped_ids(
    asked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_ids, "EARLY_MAX", 5)
    database = Database()
    for number in range(20):
        commit(database, (60 + number) * SECOND_US)
    database.checkpoint()
    assert database.engine._state.files.seen_ids.beyond < IDS_END
    database.now += 3600 * SECOND_US
    commit(database)
    database.checkpoint()
    assert database.engine._state.files.seen_ids.beyond == IDS_END
    database.now += 2 * SECOND_US
    asked.clear()
    commit(database)
    assert asked == []


def test_ids_read_from_a_store_are_those_that_were_added() -> None:
    database = Database()
    for ahead in (0, 0, 5, 60, 3600):
        commit(database, ahead * SECOND_US)
    database.checkpoint()
    noted = database.engine._state.files.seen_ids
    read: Any = read_seen_ids(database.store, database.now)
    assert read.early == noted.early
    assert len(read.early) == 3
    assert read.newest >= noted.newest
    assert read.beyond == noted.beyond
