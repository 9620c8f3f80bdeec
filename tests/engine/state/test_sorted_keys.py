"""Sorted keys return the same as a sorted list."""

import random

import pytest

from headwater_server.engine.state import sorted_keys
from headwater_server.engine.state.sorted_keys import SortedKeys


def check(keys: SortedKeys, truth: set[bytes], source: random.Random) -> None:
    some = [b"%03d" % source.randrange(1000) for _ in range(2)]
    count_max = source.choice([1, 2, 7, 5000])
    for start, end in ((b"", None), (b"", some[0]), (some[0], some[1]), (some[1], None)):
        expected = sorted(key for key in truth if key >= start and (end is None or key < end))
        assert list(keys.between(start, end)) == expected
        assert list(keys.between(start, end, reverse=True)) == expected[::-1]
        assert keys.first(start, end, count_max) == expected[:count_max]
        assert keys.first(start, end, count_max, reverse=True) == expected[::-1][:count_max]


@pytest.mark.parametrize("seed", range(8))
def test_keys_that_are_added_in_any_order_are_returned_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    monkeypatch.setattr(sorted_keys, "_BLOCK_KEYS_MAX", 8)
    monkeypatch.setattr(sorted_keys, "_ITERATED_KEYS", 5)
    source = random.Random(seed)
    keys, truth = SortedKeys(), set[bytes]()
    check(keys, truth, source)
    left = [b"%03d" % number for number in range(0, 1000, 3)]
    source.shuffle(left)
    while left:
        count = source.choice([1, 1, 1, 2, 40])
        taken, left = left[:count], left[count:]
        keys.add(taken)
        truth.update(taken)
        check(keys, truth, source)
        assert len(keys) == len(truth)


def test_many_keys_fill_blocks_of_the_real_size() -> None:
    source = random.Random(1)
    keys, truth = SortedKeys(), set[bytes]()
    for _ in range(40):
        taken = {source.randbytes(4) for _ in range(100)} - truth
        keys.add(list(taken))
        truth |= taken
    for number in range(4000):
        key = b"\xff%d" % number
        keys.add([key])
        truth.add(key)
    check(keys, truth, source)
