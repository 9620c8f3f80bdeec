"""Decides whether imports load the compiled modules or their sources.

    HEADWATER_PURE=1                the sources, for tests that replace parts and for debuggers
    a checkout with a source        the sources, with a warning; `make compile` recompiles the
    newer than its compiled module  modules
    otherwise                       the compiled modules, or the sources if nothing is compiled

Python silently prefers an extension module to a source file of the same name, so in a checkout an
edit would have no effect. Therefore a build in a checkout records the digests of its sources
(hatch_build.py), and this module compares them before anything else is imported. If one module is
stale, the sources of all modules run, because compiled modules call each other directly.
A wheel has no such record, since its sources do not change.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

_LIBRARY: Final = "headwater__mypyc"
_PACKAGES: Final = ("headwater_protocol.", "headwater_server.", "headwater.")
_ROOT: Final = Path(__file__).parent.parent


class SourceFinder:
    """Finds the source files of our modules, before the usual finders find extension modules."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG004 - the import system passes it
    ) -> ModuleSpec | None:
        """The source of a module of Headwater; None for other modules."""
        if not name.startswith(_PACKAGES):
            return None
        leaf = name.rpartition(".")[2] + ".py"
        files = (os.path.join(folder, leaf) for folder in path or ())
        file = next(filter(os.path.isfile, files), None)
        return None if file is None else spec_from_file_location(name, file)


def choose() -> None:
    """Decide what later imports load. The package calls this once, on its own import."""
    pure = os.environ.get("HEADWATER_PURE", "0") not in ("", "0")
    stale = [] if pure else stale_sources(_ROOT)
    if stale:
        warnings.warn(
            f"compiled modules are older than their source ({', '.join(stale)}), "
            "so the source runs; recompile with `make compile`",
            RuntimeWarning,
            stacklevel=2,
        )
    if pure or stale:
        sys.meta_path.insert(0, SourceFinder)


def in_use() -> bool:
    """Whether compiled modules run in this process."""
    return _LIBRARY in sys.modules


def stale_sources(root: Path) -> list[str]:
    """Sources in the checkout around *root* that changed after they were compiled."""
    try:
        record: dict[str, str] = json.loads((root / f"{_LIBRARY}.json").read_text())
    except OSError:
        return []
    return [place for place, digest in record.items() if _digest(root.parent / place) != digest]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "gone"
