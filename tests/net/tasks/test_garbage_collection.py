"""When each generation is collected, and that cycles are found."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from headwater_server.net.tasks.garbage_collection import (
    GROWTH_SIZE_MAX,
    INTERVAL_S_MAX,
    LOADED_INTERVAL_S,
    QUIET_INTERVAL_S,
    YOUNG_OBJECTS,
    GarbageCollection,
    peak_memory,
    replaying,
)


@pytest.fixture(autouse=True)
def _collector_as_before() -> Iterator[None]:
    before = gc.get_threshold()
    gc.collect()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class Serving:
    """A garbage collection of a serving process, and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.peak = GROWTH_SIZE_MAX
        self.collection = GarbageCollection(lambda: self.now, lambda: self.peak)
        self.collection.start()

    def tick(self, *, checkpoint_runs: bool = False) -> None:
        self.collection.tick(checkpoint_runs=checkpoint_runs)


def old_cycle() -> "weakref.ref[Cycle]":
    """An unreachable cycle that has left the young generation."""
    cycle = Cycle()
    gc.collect(0)
    return weakref.ref(cycle)


def full_collections() -> int:
    count: int = gc.get_stats()[2]["collections"]
    return count


def test_the_older_generations_are_not_collected_under_load() -> None:
    Serving()
    before = gc.get_stats()
    # Like the objects of a memtable: they survive, so each collection moves them to the next
    # generation.
    kept = [[number] for number in range(60 * YOUNG_OBJECTS)]
    after = gc.get_stats()
    assert len(kept) == 60 * YOUNG_OBJECTS
    assert after[0]["collections"] - before[0]["collections"] >= 50
    assert after[1]["collections"] == before[1]["collections"]
    assert after[2]["collections"] == before[2]["collections"]


def test_a_young_cycle_is_found_under_load() -> None:
    Serving()
    cycle = weakref.ref(Cycle())
    kept = [[number] for number in range(2 * YOUNG_OBJECTS)]
    assert cycle() is None
    assert kept


def test_objects_that_exist_at_the_start_are_never_collected() -> None:
    frozen = gc.get_freeze_count()
    kept = [[number] for number in range(1000)]
    Serving()
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_an_old_cycle_is_found_when_the_server_is_idle() -> None:
    serving = Serving()
    cycle = old_cycle()
    serving.now += QUIET_INTERVAL_S
    serving.tick()
    assert cycle() is not None, "objects were made since the last tick"
    serving.tick()
    assert cycle() is None


def test_full_collections_of_an_idle_server_keep_an_interval() -> None:
    serving = Serving()
    serving.now += QUIET_INTERVAL_S
    gc.collect(0)
    serving.tick()
    serving.tick()
    before = full_collections()
    gc.collect(0)
    for _ in range(9):
        serving.now += QUIET_INTERVAL_S / 10
        serving.tick()
    assert full_collections() == before
    serving.now += QUIET_INTERVAL_S / 10
    serving.tick()
    assert full_collections() == before + 1


def test_nothing_is_collected_while_no_object_leaves_the_young_generation() -> None:
    serving = Serving()
    before = full_collections()
    for _ in range(10):
        serving.now += INTERVAL_S_MAX
        serving.tick()
    assert full_collections() == before


@pytest.mark.parametrize(
    ("checkpoint_runs", "wait"), [(False, LOADED_INTERVAL_S), (True, INTERVAL_S_MAX)]
)
def test_a_server_that_is_never_idle_collects_after_a_while(
    checkpoint_runs: bool, wait: float
) -> None:
    serving = Serving()
    cycle = old_cycle()
    passed = 0.0
    while passed < wait:
        assert cycle() is not None
        gc.collect(0)
        serving.now += 1.0
        passed += 1.0
        serving.tick(checkpoint_runs=checkpoint_runs)
    assert cycle() is None


def test_cycles_do_not_accumulate_under_endless_load() -> None:
    # Each tick leaves old cycles. There are never more than those of one interval.
    serving = Serving()
    left: list[weakref.ref[Cycle]] = []
    most = 0
    for _ in range(5 * round(LOADED_INTERVAL_S)):
        left.append(old_cycle())
        serving.now += 1.0
        serving.tick()
        left = [cycle for cycle in left if cycle() is not None]
        most = max(most, len(left))
    assert most <= LOADED_INTERVAL_S


def test_cycles_are_found_once_the_process_has_grown() -> None:
    serving = Serving()
    for _ in range(3):
        cycle = old_cycle()
        serving.peak += GROWTH_SIZE_MAX - 1
        serving.tick(checkpoint_runs=True)
        assert cycle() is not None
        gc.collect(0)
        serving.peak += 1
        serving.tick(checkpoint_runs=True)
        assert cycle() is None


def test_peak_memory_is_in_bytes() -> None:
    before = peak_memory()
    block = b"\1" * (3 * before)
    assert peak_memory() > 2 * before
    assert block


def test_objects_of_a_replay_are_excluded_from_collection() -> None:
    before = gc.get_threshold()
    young = gc.get_stats()[0]["collections"]
    frozen = gc.get_freeze_count()
    with replaying():
        kept = [[number] for number in range(400_000)]
    assert gc.get_stats()[0]["collections"] == young
    assert gc.get_freeze_count() >= frozen + len(kept)
    assert gc.get_threshold() == before


def test_a_failed_replay_restores_the_collector() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="damaged"), replaying():
        raise ValueError("damaged")
    assert gc.get_threshold() == before
