"""No import cycles, in all three packages.

import-linter holds the layers between packages. This test looks inside them: modules that import
each other, however indirectly, can only be understood together. Imports for type checkers and
imports inside of functions count too, since a reader has to follow them too.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = {
    "headwater": ROOT / "client",
    "headwater_protocol": ROOT / "protocol",
    "headwater_server": ROOT / "server",
}

STILL_TO_CUT: Final[Mapping[str, AbstractSet[str]]] = {
    "headwater_server.engine.state.stored_state": {"headwater_server.engine.checkpoint.checkpoint"},
    "headwater_server.engine.state.layers": {"headwater_server.engine.retention.rules"},
    **{
        f"headwater_server.net.{module}": {"headwater_server.net.session.session"}
        for module in (
            "session.authentication",
            "tasks.backups",
            "requests.group_handlers",
            "requests.handlers",
            "service",
        )
    },
}
"""Imports that close a cycle and are still to be removed, by module. This list only shrinks."""

Graph = dict[str, set[str]]


@functools.cache
def imports_of(package: str, folder: Path) -> Graph:
    """Which modules of a package import which others of it."""
    files = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (folder / package).rglob("*.py")
    }
    return {
        name: {other for other in imported(path.read_text()) if other in files} - {name}
        for name, path in files.items()
    }


def imported(text: str) -> Iterator[str]:
    """The modules that a source may import: `from a import b` names a and a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cycles(graph: Graph) -> list[set[str]]:
    """The groups of modules in which each reaches all others."""
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
    """Cycles, as a failing test shows them."""
    return "\n".join(" <-> ".join(sorted(group)) for group in groups)


def without(graph: Graph, cut: Mapping[str, AbstractSet[str]]) -> Graph:
    """A graph without some of its imports."""
    return {module: others - cut.get(module, set()) for module, others in graph.items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    for package, folder in PACKAGES.items():
        graph = without(imports_of(package, folder), STILL_TO_CUT)
        assert not cycles(graph), told(cycles(graph))


def test_what_is_still_to_be_cut_does_close_a_cycle() -> None:
    for module, others in STILL_TO_CUT.items():
        package = module.partition(".")[0]
        graph = imports_of(package, PACKAGES[package])
        rest = without(graph, STILL_TO_CUT)
        for other in others:
            assert other in graph.get(module, set()), f"{module} no longer imports {other}"
            closed = {**rest, module: rest[module] | {other}}
            assert cycles(closed), f"{module} may import {other}: strike it from the list"


def test_a_cycle_is_found_also_if_only_a_type_checker_sees_it() -> None:
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
