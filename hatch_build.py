"""Compiles the hot modules when a wheel is built and a C compiler is present.

    pip install .          the extension modules go into the wheel, next to their sources
    pip install -e .       they go into the checkout, with the digests of their sources
    no C compiler          a warning; the modules run as plain Python

pyproject.toml lists the modules. mypyc compiles them unchanged, so each has one source.
headwater_protocol/compiled.py chooses between source and compiled module at import. With
HEADWATER_PURE=1 nothing is compiled.

The compiler runs in a separate process, so the install continues even if the compiler crashes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP: Final = "headwater"
"""Name of the one library that mypyc builds, so that calls between modules are plain C calls."""

ROOTS: Final = ("protocol", "client", "server")
RECORD: Final = Path("protocol", "headwater__mypyc.json")
"""In a checkout: the digest of each compiled source, for compiled.py."""


class CompileHook(BuildHookInterface[Any]):
    """Hatchling's hook, which runs before a wheel (editable or not) is built."""

    PLUGIN_NAME = "custom"
    _output: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the extension modules to the wheel, or copy them into the checkout."""
        root = Path(self.root)
        if version == "editable":
            remove_compiled(root)
        if os.environ.get("HEADWATER_PURE", "0") not in ("", "0"):
            return
        modules: list[str] = self.config["modules"]
        output = self._output = Path(mkdtemp(prefix="headwater-build-"))
        compiled = subprocess.run(  # noqa: S603 - this script, with paths from pyproject.toml
            [sys.executable, __file__, str(root), str(output), *modules],
            capture_output=True,
            text=True,
            check=False,
        )
        found = sorted((output / "lib").rglob("*.so")) if compiled.returncode == 0 else []
        if not found:
            said = "\n".join((compiled.stdout + compiled.stderr).splitlines()[-12:])
            self.app.display_warning(f"Installing Headwater without compiled modules.\n{said}")
            return
        for file in found:
            place = file.relative_to(output / "lib")
            if version == "editable":
                shutil.copy(file, _in_checkout(root, place))
            else:
                build_data["force_include"][str(file)] = str(place)
        if version == "editable":
            digests = {each: hashlib.sha256((root / each).read_bytes()) for each in modules}
            record = {each: digest.hexdigest() for each, digest in digests.items()}
            (root / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        else:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the compiler's output; the wheel now contains it."""
        if self._output is not None:
            shutil.rmtree(self._output)


def remove_compiled(root: Path) -> None:
    """Remove the results of an earlier build from the checkout."""
    (root / RECORD).unlink(missing_ok=True)
    for top in ROOTS:
        for file in (root / top).rglob("*.so"):
            file.unlink()


def _in_checkout(root: Path, place: Path) -> Path:
    tops = (top for top in ROOTS if (root / top / place.parts[0]).is_dir())
    # The library shared by all modules belongs to no package.
    return root / next(tops, ROOTS[0]) / place


def compile_modules(root: Path, output: Path, modules: Sequence[str]) -> None:
    """Compile *modules* (paths relative to *root*) into *output*/lib."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    os.chdir(root)
    os.environ["MYPYPATH"] = ":".join(ROOTS)
    # Ignore the types of installed packages, so that every machine compiles the same.
    options = ["--config-file=", "--no-site-packages", "--ignore-missing-imports"]
    options += ["--explicit-package-bases", f"--cache-dir={output / 'cache'}"]
    extensions = mypycify(
        [*options, *modules],
        target_dir=str(output / "c"),
        opt_level="2",
        debug_level="0",
        group_name=GROUP,
    )
    command = Distribution({"name": GROUP, "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib = str(output / "lib")
    command.build_temp = str(output / "temporary")
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    compile_modules(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
