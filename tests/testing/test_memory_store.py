"""The in-memory store can crash and can be full."""

import random

import pytest

from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.testing.memory_store import MemoryStore


def write_number(store: MemoryStore, number: int) -> None:
    """Write a batch to two families. A crash must keep or lose both parts."""
    batch = WriteBatch()
    batch.put(Family.LATEST, b"k%d" % number, b"")
    batch.put(Family.INDEX, b"count", b"%d" % number)
    store.write(batch)


def count_of(store: MemoryStore) -> int:
    """The number of batches in the store. They must be the first ones, and complete."""
    count = int(store.get(Family.INDEX, b"count") or 0)
    assert {key for key, _ in store.scan(Family.LATEST, b"")} == {
        b"k%d" % number for number in range(1, count + 1)
    }
    return count


def test_a_crash_leaves_whole_batches_up_to_some_point_after_the_last_flush() -> None:
    store = MemoryStore()
    for number in range(1, 11):
        write_number(store, number)
        if number == 4:
            store.flush()
    source = random.Random(7)
    found = {count_of(store.crash(source)) for _ in range(200)}
    assert found == set(range(4, 11))
    assert count_of(store) == 10


def test_the_store_after_a_crash_is_durable_and_independent() -> None:
    store = MemoryStore(random.Random(1))
    write_number(store, 1)
    store.flush()
    write_number(store, 2)
    found = store.crash()
    count = count_of(found)
    write_number(found, count + 1)
    found.flush()
    assert count_of(found.crash()) == count + 1
    assert count_of(store) == 2


def test_a_flush_fails_on_a_full_disk_and_the_store_works_again_after_reopening() -> None:
    store = MemoryStore()
    write_number(store, 1)
    store.flush()
    store.full = True
    write_number(store, 2)
    with pytest.raises(DiskFull):
        store.flush()
    store.full = False
    with pytest.raises(DiskFull):
        write_number(store, 3)
    with pytest.raises(DiskFull):
        store.flush()
    assert count_of(store) == 2
    store.reopen()
    count = count_of(store)
    assert count in (1, 2)
    write_number(store, count + 1)
    store.flush()
    assert count_of(store.crash()) == count + 1
