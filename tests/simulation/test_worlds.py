"""Worlds from seeds: 100 from seed 1, or as HEADWATER_SIMULATION_SEEDS and _FROM say.

A hundred worlds include each kind several times. `make simulate` runs a thousand.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from headwater_server.net import logs, service
from tests.simulation.plan import draw
from tests.simulation.run import run_seed, story
from tests.simulation.world import run_world

_ROOT = Path(__file__).parents[2]
_SEEDS = int(os.environ.get("HEADWATER_SIMULATION_SEEDS", "100"))
_FROM = int(os.environ.get("HEADWATER_SIMULATION_FROM", "1"))


_PIECE = 10
"""Worlds in one test, few enough that the tests spread evenly over the processors."""


def _pieces() -> list[range]:
    seeds = range(_FROM, _FROM + _SEEDS)
    return [seeds[start : start + _PIECE] for start in range(0, len(seeds), _PIECE)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seeds", _pieces(), ids=lambda seeds: f"{seeds[0]} to {seeds[-1]}")
def test_no_world_has_a_problem(seeds: range) -> None:
    failed = [verdict for verdict in map(run_seed, seeds) if verdict.problems]
    assert not failed, "\n\n".join(map(story, failed))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_world() -> None:
    for seed in (2, 3, 5):
        first, second = run_world(draw(seed)), run_world(draw(seed))
        assert first.digest == second.digest, f"seed {seed} does not replay"
        assert first.counts == second.counts
    assert run_world(draw(7)).digest != run_world(draw(8)).digest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_world_does_not_depend_on_the_process_in_which_it_runs() -> None:
    outputs = {_digests_elsewhere(PYTHONHASHSEED=hash_seed) for hash_seed in ("0", "1", "42")}
    assert len(outputs) == 1
    _, *digests = outputs.pop()
    assert len(set(digests)) == len(digests) == len(_ELSEWHERE)


@pytest.mark.slow
def test_the_compiled_modules_give_the_same_worlds_as_their_sources() -> None:
    form, *digests = _digests_elsewhere(HEADWATER_PURE="0")
    if form != "compiled":
        pytest.skip("there are no up-to-date compiled modules")
    assert _digests_elsewhere(HEADWATER_PURE="1") == ("source", *digests)


_ELSEWHERE = (2, 4, 6)


def _digests_elsewhere(**environment: str) -> tuple[str, ...]:
    """Run worlds in another process: "compiled" or "source", and the digests."""
    program = (
        "from headwater_protocol import compiled\n"
        "from tests.simulation.plan import draw\n"
        "from tests.simulation.world import run_world\n"
        "print('compiled' if compiled.in_use() else 'source')\n"
        f"for seed in {_ELSEWHERE}: print(run_world(draw(seed)).digest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=_ROOT,
        env={**os.environ, **environment},
        text=True,
    )
    return tuple(done.stdout.split())


@pytest.mark.slow
def test_a_world_does_not_depend_on_how_the_process_logged_before() -> None:
    # The loggers of a server that a test had started in this process cached their settings at
    # their first line. The first world afterwards then made them cache its own settings, so
    # the second world of the same seed had no log in its trace.
    expected = run_world(draw(2)).digest
    before = structlog.get_config()
    logs.configure("console", "error")
    try:
        service._log.info("a line that teaches the logger")
        assert run_world(draw(2)).digest == expected
        assert run_world(draw(2)).digest == expected
        assert structlog.get_config()["cache_logger_on_first_use"]
    finally:
        structlog.configure(**before)
        vars(service._log).pop("bind", None)


def test_a_failure_reports_its_seed_and_the_command_to_reproduce_it() -> None:
    verdict = run_world(draw(1))
    verdict.problems.append("something is wrong")
    told = story(verdict)
    assert "seed 1 " in told
    assert "something is wrong" in told
    assert "python -m tests.simulation.run --seed 1" in told
