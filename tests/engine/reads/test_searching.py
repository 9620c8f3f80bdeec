"""Searching the indexes: its cost, and that a search that stopped can be continued."""

import random
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from headwater_server.engine.reads.filters import Criterion, EventFilter
from headwater_server.engine.reads.searching import Search
from headwater_server.engine.state.layers import State
from tests.engine.written import Written

Tags = Sequence[str]


class CountedState(State):
    """A state that counts the fetches from an index, and the fetched positions."""

    asked = 0
    fetched = 0

    def indexed_positions(self, *arguments: Any, **rest: Any) -> "array[int]":
        found = super().indexed_positions(*arguments, **rest)
        self.asked += 1
        self.fetched += len(found)
        return found


def with_events(count: int, tags_of: Mapping[int, Tags], *, in_files: bool) -> State:
    """So many events of type Common in one stream, with tags at some positions."""
    written = Written(random.Random(1), batch_entries_max=1024)
    written.commit({}, [("all", "Common", None)] * count, tags_of=tags_of)
    if in_files:
        written.checkpoint()
    written.state.__class__ = CountedState
    return written.state


def found(state: State, wanted: EventFilter, *, reverse: bool = False) -> list[int]:
    search = Search(state, wanted, 0, state.last_position, reverse=reverse, budget=10**6)
    positions = search.take(10**6)
    assert search.over
    return positions


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_cost_of_a_rare_tag_and_a_common_type_is_that_of_the_tag(
    in_files: bool, reverse: bool
) -> None:
    for count in (5_000, 40_000):
        rare = {position: ["rare"] for position in range(7, count, count // 5)}
        state = with_events(count, rare, in_files=in_files)
        wanted = EventFilter(query=(Criterion(("Common",), ("rare",)),))
        assert found(state, wanted, reverse=reverse) == sorted(rare, reverse=reverse)
        assert isinstance(state, CountedState)
        # One fetch for each rare event, however many others are in between.
        assert state.asked < 20
        assert state.fetched < 10 * 1024


def test_the_intersection_of_two_long_lists_is_found_page_by_page_within_a_budget() -> None:
    # Disjoint except for one event, and interleaved, so nothing can be skipped.
    tags: dict[int, Tags] = {n: ["even"] if n % 2 == 0 else ["odd"] for n in range(1, 10_001)}
    tags[6000] = ["even", "odd"]
    state = with_events(10_000, tags, in_files=True)
    assert isinstance(state, CountedState)
    wanted = EventFilter(query=(Criterion((), ("even", "odd")),))
    after, pages, positions = 0, 0, []
    while True:
        state.asked = 0
        search = Search(state, wanted, after, 10_000, reverse=False, budget=500)
        positions += search.take(10)
        assert state.asked <= 40
        pages += 1
        if search.over:
            break
        assert search.looked_at > after
        after = search.looked_at
    assert positions == [6000]
    assert 3 < pages < 50


@pytest.mark.parametrize("seed", range(5))
def test_any_tree_agrees_with_a_scan_of_all_events(seed: int) -> None:
    source = random.Random(seed)
    names = ["a", "b", "c", "d"]
    tags = {n: source.sample(names, source.choice([0, 0, 1, 2, 3])) for n in range(1, 401)}
    state = with_events(400, tags, in_files=source.random() < 0.5)
    for _ in range(40):
        criteria = tuple(
            Criterion(
                source.choice([(), ("Common",), ("Common", "None"), ("None",)]),
                tuple(source.sample(names, source.randint(1, 3))),
            )
            for _ in range(source.randint(1, 3))
        )
        wanted = EventFilter(stream=source.choice([None, "all"]), query=criteria)
        fitting = [
            n
            for n, own in tags.items()
            if any(c.types != ("None",) and {*c.tags} <= {*own} for c in criteria)
        ]
        assert found(state, wanted) == fitting
        assert found(state, wanted, reverse=True) == fitting[::-1]
