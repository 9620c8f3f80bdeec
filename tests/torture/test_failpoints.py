"""Kills the server at named points, HEADWATER_FAILPOINT_ROUNDS times at each.

Without that variable, it uses a few random points. HEADWATER_KILL_SEED sets the seed.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.torture.failpoints import FAILPOINTS, Failpoint, make_server, new_ledger, run_round

ROUNDS: Final = int(os.environ.get("HEADWATER_FAILPOINT_ROUNDS", "0"))
SAMPLE: Final = 5


@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * len(FAILPOINTS) * ROUNDS)
def test_a_kill_at_each_failpoint_loses_no_commit_and_leaves_no_partial_one(tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADWATER_KILL_SEED", time.time_ns() % 2**32))
    print(f"\nHEADWATER_KILL_SEED={seed} HEADWATER_FAILPOINT_ROUNDS={ROUNDS}")
    points = FAILPOINTS if ROUNDS else random.Random(seed).sample(FAILPOINTS, SAMPLE)
    met: Counter[str] = Counter()
    for number in range(max(1, ROUNDS)):
        met.update(one_round(tmp_path / str(number), seed + number, points))
        print(f"round {number + 1} done", flush=True)
    for failpoint in points:
        print(f"{met[failpoint.name]:3} of {max(1, ROUNDS)}  {failpoint.name}")
        assert met[failpoint.name] > 0, f"never met: {failpoint.name}"


def one_round(room: Path, seed: int, points: Sequence[Failpoint]) -> Counter[str]:
    """Kill once at each of the points, mostly in the same directory."""
    met: Counter[str] = Counter()
    shared = room / "shared"
    shared.mkdir(parents=True)
    server, ledger = make_server(shared), new_ledger(seed)
    for failpoint in points:
        if failpoint.operation in ("create", "rename"):
            # A segment of the log is created with a new database, and rarely later.
            fresh = room / failpoint.name
            fresh.mkdir()
            met[failpoint.name] += run_round(make_server(fresh), new_ledger(seed), failpoint)
        else:
            met[failpoint.name] += run_round(server, ledger, failpoint)
    return met
