"""The packages that are published: the whole, and `headwater-client`, which is plain Python."""

import os
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

OF_THE_WHOLE: Final = {"headwater.cli.demo:demo"}
"""Commands of the client's code that need a server on the same machine."""


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def test_the_client_has_the_version_and_the_dependencies_of_the_whole() -> None:
    client, whole = project(CLIENT), project(ROOT)
    assert (client["name"], whole["name"]) == (PACKAGES[1], PACKAGES[0])
    same = ("version", "license", "requires-python", "authors", "dependencies", "scripts")
    assert {name: client[name] for name in same} == {name: whole[name] for name in same}
    for extra, wanted in client["optional-dependencies"].items():
        assert wanted == whole["optional-dependencies"][extra]


def test_the_client_has_all_commands_but_those_of_the_server() -> None:
    client = project(CLIENT)["entry-points"]["headwater.commands"]
    whole = project(ROOT)["entry-points"]["headwater.commands"]
    assert client == {
        name: place
        for name, place in whole.items()
        if place.startswith("headwater.") and place not in OF_THE_WHOLE
    }


def test_both_packages_say_that_they_run_on_the_same_pythons() -> None:
    versions = [
        [line for line in project(folder)["classifiers"] if "Python :: 3" in line]
        for folder in (CLIENT, ROOT)
    ]
    assert versions[0] == versions[1]


def test_an_installed_package_knows_its_version() -> None:
    assert installed_version() in (None, project(ROOT)["version"])


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
