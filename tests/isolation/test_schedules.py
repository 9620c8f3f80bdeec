"""Plays every anomaly at both isolation levels and compares the results with golden scripts.

A script has a comment, the schedule, and its results at each level. To see the effect of a change,
run HEADWATER_GOLDEN=write pytest tests/isolation and read the diff.
"""

import os
from pathlib import Path

import pytest

from headwater.cli.server_process import ServerProcess
from tests.isolation.schedule import Player

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
LEVELS = ("snapshot", "serializable")


def test_every_anomaly_has_its_script() -> None:
    names = {path.stem.split("-")[0] for path in SCRIPTS}
    assert names >= {"g0", "g1a", "g1b", "g1c", "otv", "pmp", "p4", "g_single", "g2_item", "g2"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_schedule_gives_the_results_of_its_script(
    path: Path, level: str, real_server: ServerProcess
) -> None:
    head, *sections = path.read_text().split("\n---- ")
    steps = [line for line in head.splitlines() if line and not line.startswith("#")]
    played = Player(real_server.address, level).play(steps)
    golden = {name: body.strip() for name, _, body in (s.partition("\n") for s in sections)}
    if os.environ.get("HEADWATER_GOLDEN") == "write":
        golden[level] = "\n".join(played)
        parts = [head.rstrip() + "\n"] + [f"{k}\n{golden[k]}\n" for k in LEVELS if k in golden]
        path.write_text("\n---- ".join(parts))
    assert golden.get(level) == "\n".join(played)
