"""Each example runs, and prints what its README shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.py"))
RUN_S_MAX = 60


@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_what_its_readme_shows(name: str) -> None:
    folder = EXAMPLES / name
    shown = re.findall(r"```text\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    ran = subprocess.run(
        [sys.executable, folder / "run.py"],
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(shown)


def test_each_example_is_in_the_list() -> None:
    listed = re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == NAMES
