"""The cache of LATEST: it equals the store, is bounded, and serves reads and checkpoints."""

import random
from typing import Any

import pytest

from headwater_server.engine.state.latest_cache import LatestCache
from headwater_server.storage.store.interface import Family
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import Database
from tests.engine.written import Written


def put(cache: LatestCache, key: bytes, entry: bytes) -> None:
    cache.put(key, entry, cache.found.get(key))


def test_a_look_up_finds_the_last_put_or_nothing() -> None:
    source = random.Random(1)
    cache = LatestCache(20_000)
    truth: dict[bytes, bytes] = {}
    for step in range(5000):
        key = b"%d" % source.randrange(200)
        if source.random() < 0.1:
            cache.forget(key)
        elif key not in cache.found and key in truth:
            cache.add(key, truth[key])
        else:
            truth[key] = source.randbytes(source.choice([9, 100, 512, 513, 2000]))
            put(cache, key, truth[key])
        assert cache.found.get(key, truth.get(key)) == truth.get(key)
        size = sum(len(key) + len(entry) for key, entry in cache.found.items())
        assert size < 20_000 + 512
        assert cache._size == size + 180 * len(cache.found)
        if step % 500 == 0:
            cache.make_room()
    assert cache.found.items() <= truth.items()


def test_a_full_cache_is_cleared_at_the_next_checkpoint() -> None:
    cache = LatestCache(1000)
    for number in range(10):
        put(cache, b"%d" % number, bytes(100))
    assert list(cache.found) == [b"0", b"1", b"2", b"3"]
    put(cache, b"2", b"shorter")
    assert cache.found[b"2"] == b"shorter"
    cache.forget(b"0")
    cache.make_room()
    assert list(cache.found) == [b"1", b"2", b"3"], "there is room again"
    put(cache, b"9", bytes(300))
    cache.make_room()
    assert not cache.found
    put(cache, b"9", bytes(100))
    assert list(cache.found) == [b"9"]


def test_a_large_entry_evicts_no_other() -> None:
    cache = LatestCache()
    put(cache, b"k", bytes(100))
    put(cache, b"k", bytes(5000))
    assert not cache.found


def test_a_full_cache_is_cleared_at_the_next_read() -> None:
    cache = LatestCache(1000)
    for number in range(4):
        cache.add(b"%d" % number, bytes(100))
    assert list(cache.found) == [b"0", b"1", b"2", b"3"]
    cache.add(b"large", bytes(5000))
    assert len(cache.found) == 4
    cache.add(b"4", bytes(100))
    assert list(cache.found) == [b"4"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys that are looked up in LATEST of the store."""
    keys: list[bytes] = []
    get, get_many = MemoryStore.get, MemoryStore.get_many

    def counted(self: MemoryStore, family: Family, key: bytes) -> bytes | None:
        if family == Family.LATEST:
            keys.append(key)
        return get(self, family, key)

    def all_counted(self: MemoryStore, family: Family, wanted: Any) -> Any:
        if family == Family.LATEST:
            keys.extend(wanted)
        return get_many(self, family, wanted)

    monkeypatch.setattr(MemoryStore, "get", counted)
    monkeypatch.setattr(MemoryStore, "get_many", all_counted)
    return keys


def test_a_read_finds_what_a_checkpoint_wrote_without_asking_the_store(asked: list[bytes]) -> None:
    database = Database()
    database.execute(["put", b"k", b"1"], ["put", b"gone", b"1"])
    database.execute(["delete", b"gone"])
    database.checkpoint()
    asked.clear()
    assert database.engine.reader().get(b"k") == b"1"
    assert asked == []
    for _ in range(2):
        assert database.engine.reader().get(b"gone") is None
    assert asked == 2 * [b"\x01gone"], "garbage collection may remove it"


def test_a_checkpoint_does_not_look_up_what_was_read_before_it_began(asked: list[bytes]) -> None:
    database = Database()
    database.execute(["put", b"k", b"1"], ["put", b"other", b"1"])
    database.checkpoint()
    database = database.reopen()
    assert database.engine.reader().get(b"k") == b"1"
    database.execute(["put", b"k", b"2"], ["put", b"other", b"2"])
    asked.clear()
    database.checkpoint()
    assert asked == [b"\x01other"]
    assert database.engine.reader(1).get(b"k") == b"1"
    assert database.engine.reader().get(b"k") == b"2"


@pytest.mark.parametrize("seed", range(6))
def test_reads_during_a_checkpoint_leave_no_old_entries(seed: int) -> None:
    # A reader may look up a key before the checkpoint writes it, and cache the result afterwards.
    source = random.Random(seed)
    print("seed", seed)
    written = Written(source, batch_entries_max=4)
    keys = [b"\x01%02d" % number for number in range(30)]

    def read_some() -> None:
        for key in source.sample(keys, 10):
            view = source.randint(written.horizon, written.last_commit)
            assert written.state.get(key, view) == written.truth.value_at(key, view)

    for _ in range(8):
        for _ in range(3):
            some = source.sample(keys, 12)
            written.commit(
                {key: source.choice([b"v%d" % written.last_commit, None]) for key in some}
            )
        read_some()
        written.store.before_write = read_some
        # Garbage collection removes deletions from LATEST that readers have seen before.
        written.checkpoint(horizon=source.randint(written.horizon, written.last_commit))
        written.store.before_write = lambda: None
        read_some()
        written.check(with_streams=False)
