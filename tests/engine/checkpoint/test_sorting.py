"""Keys are sorted a little at a time."""

import random

import pytest

from headwater_server.engine.checkpoint.sorting import chunks, sorted_parts
from headwater_server.engine.pacing import unpaced


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_are_all_keys_in_order(seed: int) -> None:
    source = random.Random(seed)
    count = source.choice([0, 1, 63, 64, 65, 1000, 5000])
    keys = list({source.randbytes(source.randint(1, 3)) for _ in range(count)})
    source.shuffle(keys)
    parts = list(sorted_parts(dict.fromkeys(keys), unpaced, run_keys=source.choice([64, 256])))
    assert [key for part in parts for key in part] == sorted(keys)


@pytest.mark.parametrize("order", ["shuffled", "sorted", "backwards"])
def test_no_part_is_much_longer_than_a_run_for_any_order_of_keys(order: str) -> None:
    keys = [b"%08d" % number for number in range(20_000)]
    if order == "shuffled":
        random.Random(1).shuffle(keys)
    elif order == "backwards":
        keys.reverse()
    pauses = 0

    def yield_gil() -> None:
        nonlocal pauses
        pauses += 1

    parts = list(sorted_parts(keys, yield_gil, run_keys=512))
    assert sum(map(len, parts)) == len(keys)
    # The cuts are chosen from a sample of the keys, so a part may be longer than a run.
    assert max(map(len, parts)) <= 6 * 512
    assert pauses >= 2 * len(keys) // (6 * 512)


def test_chunks_are_all_items_in_order() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []
