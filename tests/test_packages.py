"""The packages that are published: the whole, and `headwater-client`, which is plain Python."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from headwater_protocol.distribution import PACKAGES, installed_version

ROOT: Final = Path(__file__).parent.parent
CLIENT: Final = ROOT / "client"
SIZE_MAX: Final = 1_000_000
"""Bytes of the client's wheel. Its dependencies have about 2.4 MB, and the aim is 3 MB together."""


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def test_the_client_says_of_itself_what_the_whole_does() -> None:
    client, whole = project(CLIENT), project(ROOT)
    assert (client["name"], whole["name"]) == (PACKAGES[1], PACKAGES[0])
    for name in ("license", "authors"):
        assert client[name] == whole[name]


def test_both_packages_say_that_they_run_on_the_same_pythons() -> None:
    versions = [
        [line for line in project(folder)["classifiers"] if "Python :: 3" in line]
        for folder in (CLIENT, ROOT)
    ]
    assert versions[0] == versions[1]


def test_an_installed_package_knows_its_version() -> None:
    assert installed_version() in (None, project(ROOT)["version"])


def check_metadata(wheel: Path) -> None:
    """The version, dependencies, extras and commands are those of the whole, but the server's."""
    whole = project(ROOT)
    folder = f"headwater_client-{whole['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        told = archive.read(f"{folder}/METADATA").decode()
        points = archive.read(f"{folder}/entry_points.txt").decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)", told, re.MULTILINE)
    names = {re.split(r"[\[>=<~!; ]", one)[0] for one in whole["dependencies"]}
    assert names <= set(required)
    assert "rocksdict" not in required
    assert "trio" not in required
    extras = re.findall(r"^Provides-Extra: (.+)$", told, re.MULTILINE)
    assert {"arrow", "console", "otel"} <= set(extras)
    assert not {"server", "dev", "docs", "testing"} & set(extras)
    assert "read = headwater.cli.events:read" in points
    assert "headwater = headwater.cli:main" in points
    assert "headwater_server" not in points
    assert "\ndemo =" not in points


@pytest.mark.slow
def test_the_client_s_wheel_is_small_and_works_without_the_rest(tmp_path: Path) -> None:
    # What a compiled checkout has beside its sources must not come along.
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < SIZE_MAX
    check_metadata(wheel)
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(unpacked)
    assert {name.split("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names} == {
        "headwater",
        "headwater_protocol",
        "headwater_client",
    }
    assert not [name for name in names if name.endswith((".so", ".pyd", ".json"))]
    program = (
        "import sys, headwater, headwater.cli; "
        "headwater.connect_blocking('headwater://localhost:4323'); "
        "print(headwater.__file__, 'headwater_server' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == [str(unpacked / "headwater/__init__.py"), "False"], ran.stderr
