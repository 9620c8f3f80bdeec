"""Worlds of three nodes with faults, crashes and promotions; see world.py.

HEADWATER_REPLICATION_SEEDS sets how many worlds there are, HEADWATER_REPLICATION_SEED the first.
`make simulate-nodes` runs many more.
"""

import os
from typing import Final

import pytest

from tests.replication.world import run_world

SEEDS: Final = int(os.environ.get("HEADWATER_REPLICATION_SEEDS", "30"))
FIRST: Final = int(os.environ.get("HEADWATER_REPLICATION_SEED", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_a_world_of_nodes_has_no_problem(seed: int) -> None:
    assert not run_world(seed)
