"""Run worlds: `python -m tests.simulation.run --seeds 1000 --first 1`, or one: `--seed 4711`."""

import argparse
import signal
import sys
import time
from collections import Counter
from multiprocessing import get_context
from typing import Final

from tests.simulation.plan import draw
from tests.simulation.world import Verdict, run_world


def replay_command(seed: int) -> str:
    """The command that runs the world of a seed again, with its whole trace."""
    return f"python -m tests.simulation.run --seed {seed}"


def story(verdict: Verdict) -> str:
    """The report of a world that failed."""
    problems = "\n".join(verdict.problems[:10])
    more = len(verdict.problems) - 10
    return (
        f"seed {verdict.plan.seed} ({verdict.plan.kind}): {len(verdict.problems)} problems\n"
        f"{problems}\n{f'and {more} more' if more > 0 else ''}\n"
        f"replay: {replay_command(verdict.plan.seed)}"
    )


WORLD_S_MAX: Final = 300
"""Seconds after which a world counts as one that never ends. Most take less than one."""


def run_seed(seed: int) -> Verdict:
    """The verdict on the world of a seed; with its trace only if it failed.

    Raises:
        TimeoutError: the world did not end. Its time stands still, so only a real clock can tell.
    """

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end after {WORLD_S_MAX} s; replay: {replay_command(seed)}")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(WORLD_S_MAX)
    try:
        verdict = run_world(draw(seed))
    finally:
        signal.alarm(0)
    if not verdict.problems:
        verdict.log = ""
    return verdict


def main() -> int:
    """Run the worlds that the command line selects. Returns 1 if any failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run the world of this seed, with its trace")
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.seed is not None:
        return _run_one(options.seed)
    return _run_many(range(options.first, options.first + options.seeds), options.processes)


def _run_one(seed: int) -> int:
    verdict = run_world(draw(seed), full_trace=True)
    print(verdict.log)
    print(verdict.plan)
    print(f"digest {verdict.digest}  {verdict.counts}")
    if verdict.problems:
        print(story(verdict))
    return min(1, len(verdict.problems))


def _run_many(seeds: range, processes: int) -> int:
    began = time.monotonic()
    failed: list[int] = []
    kinds: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    with get_context("fork").Pool(processes, maxtasksperchild=500) as pool:
        for done, verdict in enumerate(pool.imap_unordered(run_seed, seeds), 1):
            kinds[verdict.plan.kind] += 1
            totals.update(verdict.counts)
            if verdict.problems:
                failed.append(verdict.plan.seed)
                print(f"\n{story(verdict)}", flush=True)
            rate = done / (time.monotonic() - began)
            line = f"{done} of {len(seeds)} worlds, {rate:.1f}/s, {len(failed)} failed"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{len(seeds)} worlds in {seconds:.0f} s: {dict(kinds)}; {dict(totals)}")
    if failed:
        print(f"failed: {sorted(failed)}")
    return min(1, len(failed))


if __name__ == "__main__":
    sys.exit(main())
