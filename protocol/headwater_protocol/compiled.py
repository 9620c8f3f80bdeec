"""Compiled or not: which form of the hot modules an import takes.

    HEADWATER_PURE=1                the source, always: for tests that replace parts, for debuggers
    a checkout whose source is      the source, with a warning: the compiled modules speak of what
    newer than what was compiled    the source was; `make compile` brings them level
    else                            the compiled modules where there are any, else the source

Python takes an extension module before a source file of the same name, and says nothing. In a
checkout that would be an edit which does nothing. So a build in a checkout leaves the digests
of its sources (hatch_build.py), and they are compared here, before anything else is imported;
the calls between compiled modules are bound, so one that is stale takes all others with it.
A wheel has no such record: its sources do not change.
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
    """Finds our modules as source files, before the usual finders find extension modules."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG004 - the import system gives it
    ) -> ModuleSpec | None:
        """The source of a module of ours; None for all others."""
        if not name.startswith(_PACKAGES):
            return None
        leaf = name.rpartition(".")[2] + ".py"
        files = (os.path.join(folder, leaf) for folder in path or ())
        file = next(filter(os.path.isfile, files), None)
        return None if file is None else spec_from_file_location(name, file)


def choose() -> None:
    """Make all later imports take the right form. Called once, by the package itself."""
    pure = os.environ.get("HEADWATER_PURE", "0") not in ("", "0")
    stale = [] if pure else stale_sources(_ROOT)
    if stale:
        warnings.warn(
            f"compiled modules are older than their source ({', '.join(stale)}), which runs in "
            "their place; `make compile` brings them level",
            RuntimeWarning,
            stacklevel=2,
        )
    if pure or stale:
        sys.meta_path.insert(0, SourceFinder)


def in_use() -> bool:
    """Whether compiled modules run in this process."""
    return _LIBRARY in sys.modules


def stale_sources(root: Path) -> list[str]:
    """Sources that changed since they were compiled in the checkout around *root*."""
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
