"""Checkouts of Headwater on this machine, to be run beside each other.

A checkout's server is started with its own folders in PYTHONPATH, by this interpreter. Compiled
modules are much faster than their source, so which of the two runs must be known and the same.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDERS: Final = ("protocol", "client", "server")
HERE: Final = Path(__file__).parent.parent

_WHAT_RUNS: Final = """
import headwater, headwater_protocol, headwater_server.net.server
from headwater_protocol.compiled import in_use
print(headwater_protocol.__file__, headwater_server.__file__, headwater.__file__, sep="\\n")
print("compiled" if in_use() else "source")
"""

_COMPILE: Final = """
import sys
from hatch_build import CompileHook
CompileHook(".", {"modules": sys.argv[1:]}, None, None, "", "wheel").initialize("editable", {})
"""


class CheckoutFailed(Exception):
    """A checkout cannot be run, or should not be compared."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout, and what its side is called in the report."""

    name: str
    root: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What its server needs, and its clients in its own bench/clients.py."""
        folders = [*(self.root / folder for folder in FOLDERS), self.root]
        return {"PYTHONPATH": os.pathsep.join(str(folder.resolve()) for folder in folders)}

    def is_compiled(self) -> bool:
        """Whether the compiled modules of this checkout would run.

        Raises:
            CheckoutFailed: it cannot be imported, or other code would run in its place.
        """
        ran = subprocess.run(
            [sys.executable, "-P", "-c", _WHAT_RUNS],
            env={**without_settings(os.environ), **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise CheckoutFailed(f"{self.root} cannot be imported\n{ran.stderr}")
        *files, form = ran.stdout.split("\n")[:4]
        for file in files:
            if not Path(file).resolve().is_relative_to(self.root.resolve()):
                raise CheckoutFailed(f"{file} would run in place of what is in {self.root}")
        if ran.stderr:
            print(ran.stderr.strip(), file=sys.stderr)
        return form == "compiled"

    def compile(self) -> None:
        """Compile the hot modules where they lie. Takes a few minutes.

        Raises:
            CheckoutFailed: they could not be compiled.
        """
        project = tomllib.loads((self.root / "pyproject.toml").read_text())
        modules = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"][
            "modules"
        ]
        ran = subprocess.run(
            [sys.executable, "-c", _COMPILE, *modules],
            cwd=self.root,
            env=without_settings(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode or not self.is_compiled():
            raise CheckoutFailed(f"{self.root} could not be compiled\n{ran.stdout}{ran.stderr}")


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what would be settings of a server or choose the source."""
    return {name: value for name, value in environment.items() if not name.startswith("HEADWATER_")}


def check_same_form(forms: Mapping[str, bool]) -> None:
    """Refuse to compare a compiled checkout with one that runs from source.

    Raises:
        CheckoutFailed: *forms*, whether each side is compiled, are not all the same.
    """
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{name} {form_name(compiled)}" for name, compiled in forms.items())
        raise CheckoutFailed(f"{told}: compile both (--compile), or say --mixed")


def form_name(compiled: bool) -> str:
    """How the report calls what runs."""
    return "runs compiled" if compiled else "runs from source"
