"""Which node a read goes to."""

import itertools
import random
from dataclasses import dataclass

import pytest

from headwater.nodes.picking import picked
from headwater_protocol.address import READ_MODES

SEEDS = range(50)


@dataclass
class Known:
    role: str | None
    round_trip: float | None = 0.1
    is_resting: bool = False
    is_behind: bool = False


def any_nodes(source: random.Random) -> list[Known]:
    return [
        Known(
            source.choice(["leader", "follower", "follower", "deposed", None]),
            source.choice([None, source.random()]),
            source.random() < 0.2,
            source.random() < 0.2,
        )
        for _ in range(source.randrange(8))
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", READ_MODES)
def test_only_nodes_that_may_be_read_are_picked_and_all_of_them(mode: str, seed: int) -> None:
    nodes = any_nodes(random.Random(seed))
    roles = {"leader"} if mode == "leader" else {"leader", "follower"}
    found = picked(nodes, mode)
    assert {id(node) for node in found} == {id(node) for node in nodes if node.role in roles}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", READ_MODES)
def test_of_any_two_the_better_one_comes_first(mode: str, seed: int) -> None:
    for first, second in itertools.pairwise(picked(any_nodes(random.Random(seed)), mode)):
        assert first.is_resting <= second.is_resting
        if first.is_resting != second.is_resting:
            continue
        assert first.is_behind <= second.is_behind
        if first.is_behind != second.is_behind:
            continue
        if mode == "follower" and first.role != second.role:
            assert first.role == "follower"
        elif second.round_trip is not None:
            assert first.round_trip is not None
            assert first.round_trip <= second.round_trip


def test_nodes_that_were_tried_are_left_out() -> None:
    nodes = [Known("leader"), Known("follower"), Known("follower")]
    assert picked(nodes, "nearest", nodes[:2]) == [nodes[2]]
    assert picked(nodes, "nearest", nodes) == []
