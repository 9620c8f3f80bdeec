"""Checkouts of Headwater on this machine, to be compared with each other.

This interpreter starts a checkout's server with the checkout's folders in PYTHONPATH. Compiled
modules are much faster than their sources, so all checkouts must run the same form.
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
    """A checkout cannot run, or must not be compared."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout and its name in the report.

    Attributes:
        options: of its server, besides the defaults.
    """

    name: str
    root: Path
    options: tuple[str, ...] = ()

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment for its server and for the clients in its own bench/clients.py."""
        folders = [*(self.root / folder for folder in FOLDERS), self.root]
        return {"PYTHONPATH": os.pathsep.join(str(folder.resolve()) for folder in folders)}

    def is_compiled(self) -> bool:
        """Whether the compiled modules of this checkout would run.

        Raises:
            CheckoutFailed: it cannot be imported, or the import finds other code.
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
                raise CheckoutFailed(f"the import finds {file}, which is not in {self.root}")
        if ran.stderr:
            print(ran.stderr.strip(), file=sys.stderr)
        return form == "compiled"

    def compile(self) -> None:
        """Compile the hot modules in the checkout, which takes a few minutes.

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
    """The environment without server settings and without HEADWATER_PURE."""
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
    """The word in the report for compiled modules or source."""
    return "runs compiled" if compiled else "runs from source"
