"""Run worlds of several nodes: python -m tests.replication.run --seeds 1000 --first 1.

A seed that has a problem has the same one again.
"""

import argparse
import sys
import time
from multiprocessing import get_context

from tests.replication.world import run_world


def _run(seed: int) -> tuple[int, list[str]]:
    return seed, run_world(seed)


def main() -> int:
    """Run worlds in processes. Returns 1 if any has a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    began = time.monotonic()
    bad = 0
    with get_context("fork").Pool(options.processes, maxtasksperchild=50) as pool:
        for seed, problems in pool.imap_unordered(_run, seeds):
            if problems:
                bad += 1
                print(f"seed {seed}:", *problems, sep="\n    ", flush=True)
    print(f"{len(seeds)} worlds of nodes, {bad} with problems, {time.monotonic() - began:.0f} s")
    return min(1, bad)


if __name__ == "__main__":
    sys.exit(main())
