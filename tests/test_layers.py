"""None of the packages has an import cycle.

import-linter checks the layers of packages. This test checks the modules inside them: modules that
import each other, even indirectly, can only be understood together. Imports for type checkers and
imports inside functions count too, since a reader must follow them.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = {
    "headwater": ROOT / "client",
    "headwater_protocol": ROOT / "protocol",
    "headwater_server": ROOT / "server",
    "headwater_testing": ROOT / "server",
}

Graph = dict[str, set[str]]


@functools.cache
def imports_of(package: str, folder: Path) -> Graph:
    """For each module of a package, the modules of the package that it imports."""
    files = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (folder / package).rglob("*.py")
    }
    return {
        name: {other for other in imported(path.read_text()) if other in files} - {name}
        for name, path in files.items()
    }


def imported(text: str) -> Iterator[str]:
    """The modules that a source may import: `from a import b` may import a and a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cycles(graph: Graph) -> list[set[str]]:
    """The groups of modules in which each module imports all others, directly or indirectly."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph[module]
        reach[start] = seen
    found: list[set[str]] = []
    for module, seen in reach.items():
        if module in seen and not any(module in group for group in found):
            found.append({other for other in seen if module in reach[other]})
    return found


def told(groups: list[set[str]]) -> str:
    """The cycles as a message of a failing test."""
    return "\n".join(" <-> ".join(sorted(group)) for group in groups)


def test_no_module_imports_itself_indirectly() -> None:
    for package, folder in PACKAGES.items():
        graph = imports_of(package, folder)
        assert not cycles(graph), told(cycles(graph))


def test_a_cycle_of_imports_for_type_checkers_is_found() -> None:
    one = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.two import Two\n"
    two = "def two():\n    from package import three\n"
    graph = {
        "package.one": {*imported(one)} & {"package.two"},
        "package.two": {*imported(two)} & {"package.three"},
        "package.three": {"package.one"},
        "package.four": {"package.one"},
    }
    assert cycles(graph) == [{"package.one", "package.two", "package.three"}]
    assert not cycles({**graph, "package.three": set()})
