"""Torture: `make torture`, or `python -m tests.torture.run --worlds 10000 --kills 500`.

It runs all long tests in sequence and prints a report: what ran, how long it took, and for each
failure the command that reproduces it.

    worlds       simulated worlds, from seed --first
    kills        rounds of kill -9 at random times, on the real server and disk
    failpoints   rounds at each named point
    hard times   stopped, slow disk, full disk, no descriptors, 10,000 idle connections
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WORLDS_A_PIECE: Final = 500
KILLS_A_PIECE: Final = 100
_FAILED: Final = re.compile(r"^failed: \[(.*)\]$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part of the run.

    Attributes:
        name: name of the part.
        count: how many rounds or worlds ran.
        failures: for each failure the command that reproduces it.
    """

    name: str
    count: int
    seconds: float
    failures: list[str]


def run_program(arguments: list[str], **environment: str) -> tuple[int, str]:
    """Run Python with these arguments: its exit status and output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout


def worlds(first: int, count: int, processes: int) -> Part:
    """Simulated worlds of consecutive seeds."""
    began = time.monotonic()
    status, output = run_program(
        [
            *("-m", "tests.simulation.run", "--seeds", str(count), "--first", str(first)),
            *("--processes", str(processes)),
        ]
    )
    found = _FAILED.search(output)
    seeds = [] if found is None else found[1].split(", ")
    failures = [f"python -m tests.simulation.run --seed {seed}" for seed in seeds]
    if status and not failures:
        failures = [f"worlds {first} to {first + count - 1} ended with {output[-2000:]}"]
    return Part("worlds", count, time.monotonic() - began, failures)


def of_pytest(name: str, count: int, path: str, **environment: str) -> Part:
    """Run the tests of a file, with sizes from the environment."""
    began = time.monotonic()
    status, output = run_program(
        ["-m", "pytest", "-q", "-s", "--timeout", "7200", path], **environment
    )
    settings = " ".join(f"{key}={value}" for key, value in sorted(environment.items()))
    failures = []
    if status:
        failures = [f"{settings} python -m pytest -s {path}"]
        Path("torture-failure.txt").write_text(output)
    return Part(name, count, time.monotonic() - began, failures)


def pieces(total: int, size: int) -> list[tuple[int, int]]:
    """The start and size of each piece."""
    return [(start, min(size, total - start)) for start in range(0, total, size)]


def report(parts: list[Part]) -> str:
    """The report: a table for docs/reliability.md, and the failures."""
    lines = ["| part | count | time | failures |", "|---|---|---|---|"]
    for name in dict.fromkeys(part.name for part in parts):
        same = [part for part in parts if part.name == name]
        count = sum(part.count for part in same)
        minutes = sum(part.seconds for part in same) / 60
        failed = sum(len(part.failures) for part in same)
        lines.append(f"| {name} | {count:,} | {minutes:.1f} min | {failed} |")
    lines += [f"\n    {failure}" for part in parts for failure in part.failures]
    return "\n".join(lines)


def main() -> int:
    """Run all parts; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=100_000, help="seed of the first world")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--failpoints", type=int, default=5, help="rounds at each of them")
    parser.add_argument("--idlers", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    parts: list[Part] = []

    def done(part: Part) -> None:
        parts.append(part)
        told = f"{len(part.failures)} failed" if part.failures else "well"
        print(f"{part.name}: {part.count} in {part.seconds:.0f} s, {told}", flush=True)

    for start, count in pieces(options.worlds, WORLDS_A_PIECE):
        done(worlds(options.first + start, count, options.processes))
    for start, count in pieces(options.kills, KILLS_A_PIECE):
        seed = options.first + start
        names = {"HEADWATER_KILL_ROUNDS": str(count), "HEADWATER_KILL_SEED": str(seed)}
        done(of_pytest("kills", count, "tests/test_kill.py", **names))
    if options.failpoints:
        rounds = {"HEADWATER_FAILPOINT_ROUNDS": str(options.failpoints)}
        done(
            of_pytest(
                "rounds of failpoints",
                options.failpoints,
                "tests/torture/test_failpoints.py",
                HEADWATER_KILL_SEED=str(options.first),
                **rounds,
            )
        )
    if options.idlers:
        idlers = {"HEADWATER_IDLERS": str(options.idlers)}
        done(of_pytest("hard times", 1, "tests/torture/test_hard_times.py", **idlers))
    print(report(parts))
    return min(1, sum(len(part.failures) for part in parts))


if __name__ == "__main__":
    sys.exit(main())
