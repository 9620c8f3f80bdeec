"""Hooks of mkdocs: what the site has besides the pages of docs/.

- The pages of the guide, in the order of its list, and those of the decisions.
- The reference of the client from its docstrings, and that of the command line from click.
- Links to files outside of docs/ become plain text, because the site does not have these files.
"""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"

PAGES_FROM: Final = ("guide/README.md", "decisions/README.md")
"""Pages with a list of pages. These follow them in the navigation."""

ELSEWHERE: Final = frozenset({"guide/errors.md"})
"""Pages of the guide that have another place in the navigation."""

BLOCKING: Final = "Blocking"
"""How the names of the blocking client begin."""

REFERENCE: Final = {
    "reference/async.md": "The client for trio and asyncio",
    "reference/blocking.md": "The blocking client",
    "reference/values.md": "Events, queries and results",
    "reference/exceptions.md": "Exceptions",
    "reference/command-line.md": "Commands",
}
"""Pages that are made from the code, with their titles."""

ASYNCHRONOUS: Final = (
    *("connect", "Database", "Transaction", "Batch", "Past", "Subscription", "Repository"),
    *("Aggregates", "Aggregate", "Groups", "Membership", "Delivery", "Projections"),
    *("ProjectionTransaction", "Model", "ReadModel", "Lock", "Rights", "Connections"),
)
"""What is on the first page, in its order."""


def public_names() -> list[str]:
    """The names of the module `headwater`."""
    tree = ast.parse((ROOT / "client/headwater/__init__.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return sorted(names)


def error_names() -> set[str]:
    """The names of the exceptions."""
    tree = ast.parse((ROOT / "client/headwater/__init__.py").read_text())
    return {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "headwater.errors"
        for alias in node.names
    }


def reference_names() -> dict[str, list[str]]:
    """The public names by page, each on one."""
    names, errors = public_names(), error_names()
    blocking = [name for name in names if name.startswith(BLOCKING)]
    blocking += ["connect_blocking", "RunningProjections", "BlockingAggregates"]
    blocking = [name for name in dict.fromkeys(blocking) if name in names]
    asynchronous = [name for name in ASYNCHRONOUS if name in names]
    left = set(names) - errors - set(blocking) - set(asynchronous)
    return {
        "reference/async.md": asynchronous,
        "reference/blocking.md": sorted(blocking, key=lambda name: name != "connect_blocking"),
        "reference/values.md": sorted(left),
        "reference/exceptions.md": sorted(
            errors, key=lambda name: (name != "HeadwaterError", name)
        ),
    }


def commands() -> Iterator[tuple[str, click.Command]]:
    """The commands of the project, with those of groups after them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["headwater.commands"]
    for name, place in sorted(points.items()):
        group = importlib.metadata.EntryPoint(name, place, "headwater.commands")
        yield from _with_commands(name, group.load())


def _with_commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for each, inner in sorted(command.commands.items()):
            yield from _with_commands(f"{name} {each}", inner)


def command_page() -> str:
    """The help of all commands."""
    head = "This is what `headwater COMMAND --help` shows. "
    head += "[The command line](../guide/command-line.md) tells how to use them."
    parts = [f"# Commands\n\n{head}\n"]
    for name, command in commands():
        with click.Context(command, info_name=f"headwater {name}", max_content_width=96) as ctx:
            ctx.terminal_width = 96
            parts.append(f"## {name}\n\n```text\n{command.get_help(ctx)}\n```\n")
    return "\n".join(parts)


def reference_page(path: str, names: list[str]) -> str:
    """A page with the docstrings of some names."""
    return "\n\n".join([f"# {REFERENCE[path]}", *(f"::: headwater.{name}" for name in names)])


def listed(page: str) -> list[str]:
    """The pages in the list of a page, relative to docs/."""
    folder = page.rpartition("/")[0]
    text = (DOCS / page).read_text()
    found = re.findall(r"^(?:- |\| )\[[^\]]+\]\(([\w-]+\.md)\)", text, re.MULTILINE)
    return [path for name in found if (path := f"{folder}/{name}") not in ELSEWHERE]


def _expanded(nav: list[Any]) -> list[Any]:
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            found.append({k: _expanded(v) if isinstance(v, list) else v for k, v in entry.items()})
        else:
            found.append(entry)
            if entry in PAGES_FROM:
                found += listed(entry)
    return found


def on_config(config: Any) -> Any:
    """Complete the navigation."""
    sys.path[:0] = [str(ROOT / name) for name in ("protocol", "client", "server")]
    config.nav = _expanded(config.nav)
    for entry in config.nav:
        if isinstance(entry, dict) and "Reference" in entry:
            entry["Reference"] = [*REFERENCE, *entry["Reference"]]
        elif isinstance(entry, dict) and "How-to" in entry:
            entry["How-to"].append("integrations.md")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code."""
    # Imported here, so that the tests need no mkdocs.
    from mkdocs.structure.files import File

    pages = {path: reference_page(path, names) for path, names in reference_names().items()}
    pages["reference/command-line.md"] = command_page()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


LINK: Final = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make plain text of links to files that the site does not have."""
    folder = (DOCS / page.file.src_path).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[2].partition("#")[0]).resolve()
        inside = target.is_relative_to(DOCS) and target.suffix in (".md", ".svg", ".png")
        return link[0] if inside else link[1]

    return LINK.sub(replaced, markdown)
