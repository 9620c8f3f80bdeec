"""Worlds of three nodes: see worlds.py. `make simulate-cluster` lives through many more.

HEADWATER_CLUSTER_SEEDS sets how many there are, HEADWATER_CLUSTER_SEED the first.
"""

import os
from typing import Final

import pytest
from trio.testing import MockClock

from tests.cluster.worlds import live

SEEDS: Final = int(os.environ.get("HEADWATER_CLUSTER_SEEDS", "16"))
FIRST: Final = int(os.environ.get("HEADWATER_CLUSTER_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_nodes_that_fail_lose_nothing_and_stay_equal(
    seed: int, autojump_clock: MockClock
) -> None:
    world = await live(seed, world_s=30.0)
    print("\n".join(world.told))
    assert world.reads, "the leaders were asked"
    assert all(world.answered.values()), "each writer got answers"
