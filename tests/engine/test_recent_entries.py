"""Entries that the next checkpoint need not look up: bounded, and never anything else."""

import random

from headwater_server.engine.recent_entries import RecentEntries


def put(recent: RecentEntries, key: bytes, entry: bytes) -> None:
    recent.put(key, entry, recent.found.get(key))


def test_what_was_put_last_is_found_or_nothing() -> None:
    source = random.Random(1)
    recent = RecentEntries(20_000)
    truth: dict[bytes, bytes] = {}
    for step in range(5000):
        key = b"%d" % source.randrange(200)
        if source.random() < 0.1:
            recent.forget(key)
        else:
            truth[key] = source.randbytes(source.choice([9, 100, 512, 513, 2000]))
            put(recent, key, truth[key])
        assert recent.found.get(key, truth.get(key)) == truth.get(key)
        size = sum(len(key) + len(entry) for key, entry in recent.found.items())
        assert size < 20_000 + 512
        if step % 500 == 0:
            recent.make_room()
    assert recent.found.items() <= truth.items()


def test_one_that_is_full_begins_anew_with_the_next_checkpoint() -> None:
    recent = RecentEntries(1000)
    for number in range(10):
        put(recent, b"%d" % number, bytes(100))
    assert list(recent.found) == [b"0", b"1", b"2", b"3"]
    put(recent, b"2", b"shorter")
    assert recent.found[b"2"] == b"shorter"
    recent.forget(b"0")
    recent.make_room()
    assert list(recent.found) == [b"1", b"2", b"3"], "there is room again"
    put(recent, b"9", bytes(300))
    recent.make_room()
    assert not recent.found
    put(recent, b"9", bytes(100))
    assert list(recent.found) == [b"9"]


def test_a_large_entry_takes_the_place_of_none() -> None:
    recent = RecentEntries()
    put(recent, b"k", bytes(100))
    put(recent, b"k", bytes(5000))
    assert not recent.found
