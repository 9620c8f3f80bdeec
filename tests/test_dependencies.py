"""Every imported package is a declared dependency, and not only one of another dependency."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTING = ROOT / "server/headwater_server/testing"
MODULES = {"nats_py": "nats", "opentelemetry_api": "opentelemetry"}
"""The modules of packages with another name."""
OWN = {"headwater", "headwater_protocol", "headwater_server"}


def declared(*extras: str) -> set[str]:
    """The modules of the dependencies, and of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in optional[extra])]
    names = {re.split(r"[\[>=<~!;]", one)[0].strip().replace("-", "_") for one in wanted}
    return {MODULES.get(name, name) for name in names}


def imported(folder: Path) -> dict[str, str]:
    """The third-party modules that a package imports, each with a file that imports it.

    The test doubles of the server do not count, because nothing that ships imports them.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        if TESTING in path.parents and folder != TESTING:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names | OWN:
                    found.setdefault(top, str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("protocol/headwater_protocol", ()),
        ("server/headwater_server", ("server", "cluster", "otel")),
        ("server/headwater_server/testing", ("dev",)),
        # The client supports these modules if the application has installed them.
        (
            "client/headwater",
            (
                "server",
                "msgspec",
                "pydantic",
                "arrow",
                "console",
                "encryption",
                "postgresql",
                "mcp",
                "otel",
            ),
        ),
    ],
)
def test_every_module_that_is_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    modules = imported(ROOT / folder)
    assert modules, "no import was found"
    undeclared = modules.keys() - declared(*extras)
    assert not undeclared, {module: modules[module] for module in undeclared}
