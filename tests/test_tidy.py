"""Rules of this repository that no linter checks, as tests.

Each rule is a function that takes a file and yields findings, as lines "where: what". The first
tests run the rules over the checkout. The last tests give each rule bad input, to show that it can
find something.

ruff, mypy and import-linter check line length, docstrings, layers, print, and unfinished work.
"""

import ast
import importlib.metadata
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SOURCES: Final = ("protocol/headwater_protocol", "client/headwater", "server/headwater_server")
PYTHON: Final = (*SOURCES, "bench", "tests", "integrations")

MODULE_LINES_MAX: Final = 500
"""A reader can keep one subject in mind. The aim is 100 to 450 lines."""

FUNCTION_LINES_MAX: Final = 70
"""A function that does not fit on a screen has two subjects. The aim is 60 lines."""

FOLDER_MODULES_MAX: Final = 20
"""Modules in a folder. More cannot be taken in at a glance. The aim is 12."""

VAGUE_NAMES: Final = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})
"""Names that fit every subject, so everything ends up in such a module."""

TEST_NAME_WORDS_MIN: Final = 3
"""The name of a test is a sentence, which needs at least this many words."""

BOUND_SUFFIXES: Final = ("_MAX", "_MIN", "_DEFAULT")


@dataclass(frozen=True, slots=True)
class Source:
    """A Python file, read once for all rules."""

    path: Path
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def at(self, line: int, what: str) -> str:
        return f"{self.path}:{line}: {what}"


def python_files(*folders: str) -> Iterator[Source]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield Source(path.relative_to(ROOT), path.read_text())


def pages() -> Iterator[tuple[Path, str]]:
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        yield path.relative_to(ROOT), path.read_text()


Rule = Callable[[Source], Iterator[str]]


def findings(rule: Rule, *folders: str) -> str:
    """The findings of a rule in all files of the folders, one in each line."""
    return "\n".join(line for source in python_files(*folders) for line in rule(source))


# The rules.


def long_module(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield source.at(1, f"{lines} lines; a module has at most {MODULE_LINES_MAX}")


def long_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                what = f"{node.name}() has {lines} lines; allowed are {FUNCTION_LINES_MAX}"
                yield source.at(node.lineno, what)


def crowded(folder: Path, modules: list[str]) -> Iterator[str]:
    count = sum(name != "__init__.py" for name in modules)
    if count > FOLDER_MODULES_MAX:
        yield f"{folder}: {count} modules; a folder has at most {FOLDER_MODULES_MAX}"


def vague_name(source: Source) -> Iterator[str]:
    for part in source.path.with_suffix("").parts:
        for word in part.split("_"):
            if word in VAGUE_NAMES:
                yield source.at(1, f"{word!r} in a name says nothing of the subject")


def bounds_without_reason(source: Source) -> Iterator[str]:
    """Find bounds without a docstring below or a comment above, with the unit and the reason."""
    body = source.tree.body
    lines = source.text.splitlines()
    for node, following in itertools.zip_longest(body, body[1:]):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        if not name.isupper() or not name.endswith(BOUND_SUFFIXES):
            continue
        docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        comment = node.lineno > 1 and lines[node.lineno - 2].startswith("#")
        if not docstring and not comment:
            yield source.at(node.lineno, f"{name} needs its unit and its reason in a docstring")


def waits_and_mocks(source: Source) -> Iterator[str]:
    """Find mocks, and sleeps without a comment that says why real time must pass."""
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names):
                if any(alias.name.startswith("unittest.mock") for alias in names):
                    yield source.at(node.lineno, "use a fake instead of a mock")
            case ast.ImportFrom(module="unittest" | "unittest.mock" | "pytest_mock"):
                yield source.at(node.lineno, "use a fake instead of a mock")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep")):
                if "  # " not in lines[node.lineno - 1]:
                    yield source.at(node.lineno, "wait for an event instead of a time")
            case _:
                pass


def names_that_are_not_sentences(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = node.name.split("_")
            if words[0] == "test" and len(words) - 1 < TEST_NAME_WORDS_MIN:
                yield source.at(node.lineno, f"{node.name}: the name of a test is a sentence")


def checkless_tests(source: Source) -> Iterator[str]:
    """Find tests that neither assert, nor expect an error, nor call a function that checks."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not node.name.startswith("test_"):
            continue
        said = "\n".join(ast.unparse(statement) for statement in node.body)
        if not re.search(r"assert|raises|check|expect|verify|refuse", said):
            yield source.at(node.lineno, f"{node.name} checks nothing")


def missing_links(path: Path, text: str) -> Iterator[str]:
    """Find relative links of a page to files or headings that do not exist."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (ROOT / path).parent / file if file else ROOT / path
        if not found.exists():
            yield f"{path}: link to {target}, which does not exist"
        elif anchor and anchor not in anchors(found.read_text()):
            yield f"{path}: link to {target}, which has no such heading"


PATH_ROOTS: Final = ("", "server/headwater_server", "client/headwater")
"""Where paths in the pages begin."""


def missing_code(path: Path, text: str) -> Iterator[str]:
    """Find names of missing files, functions and classes, as in `engine/engine.py: commit`."""
    for named, name in re.findall(r"`([\w.]+/[\w./-]*)(?::\s+(\w+))?`", text):
        files = [ROOT / root / named for root in PATH_ROOTS if (ROOT / root / named).exists()]
        known = any((ROOT / root / named.split("/")[0]).exists() for root in PATH_ROOTS)
        if not files and (known or named.endswith(".py")):
            yield f"{path}: {named} does not exist"
        elif name and not any(defines(file, name) for file in files):
            yield f"{path}: {named} has no {name}"


def missing_targets(path: Path, text: str) -> Iterator[str]:
    """Find missing targets of the Makefile, as in `make check`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`make ([a-z-]+)", text):
        if target not in targets:
            yield f"{path}: make {target} is no target of the Makefile"


def defines(file: Path, name: str) -> bool:
    return bool(re.search(rf"^ *(async def|def|class) {name}\b", file.read_text(), re.MULTILINE))


def anchors(text: str) -> set[str]:
    """The names that links use for the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


# The rules over the checkout.


def test_modules_and_functions_have_one_subject_each() -> None:
    assert not findings(long_module, *SOURCES, "bench")
    assert not findings(long_functions, *SOURCES, "bench")


def test_no_name_is_vague() -> None:
    assert not findings(vague_name, *PYTHON)


def test_every_bound_has_its_unit_and_its_reason() -> None:
    assert not findings(bounds_without_reason, *SOURCES)


def test_tests_are_sentences_that_can_fail_and_never_sleep() -> None:
    assert not findings(names_that_are_not_sentences, "tests")
    assert not findings(checkless_tests, "tests")
    assert not findings(waits_and_mocks, "tests")


def test_links_of_the_pages_exist() -> None:
    assert not "\n".join(line for path, text in pages() for line in missing_links(path, text))


def test_code_and_targets_that_the_pages_name_exist() -> None:
    rules = (missing_code, missing_targets)
    found = [line for path, text in pages() for rule in rules for line in rule(path, text)]
    assert not "\n".join(found)


def test_tests_mirror_the_source_tree() -> None:
    """tests/engine/test_engine.py tests engine/engine.py. Any other file needs a docstring."""
    packages = {
        "protocol": ["protocol/headwater_protocol"],
        "client": ["client/headwater"],
        "storage": ["server/headwater_server/storage"],
        "engine": ["server/headwater_server/engine"],
        "net": ["server/headwater_server/net"],
        "testing": ["server/headwater_server/testing"],
        "cli": ["client/headwater/cli", "server/headwater_server/cli"],
    }
    for area, folders in packages.items():
        files = sorted((ROOT / "tests" / area).rglob("test_*.py"))
        assert files, f"tests/{area} has no tests"
        for file in files:
            room = file.parent.relative_to(ROOT / "tests" / area)
            module = file.name.removeprefix("test_")
            named = any((ROOT / folder / room / module).is_file() for folder in folders)
            told = ast.get_docstring(ast.parse(file.read_text()))
            assert named or told, (
                f"{file.relative_to(ROOT)} does not test a module of its name, and has no docstring"
            )


def package_folders(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path.parent for path in (ROOT / folder).rglob("__init__.py"))


def test_no_folder_of_the_source_is_crowded() -> None:
    for folder in package_folders(*SOURCES):
        names = [path.name for path in folder.glob("*.py")]
        found = "".join(crowded(folder.relative_to(ROOT), names))
        assert not found, found


def test_the_architecture_page_lists_the_rooms_of_the_server() -> None:
    """docs/architecture.md has a line for each room, and for no other."""
    server = ROOT / "server/headwater_server"
    apart = {"cli", "net", "engine", "storage", "."}
    rooms = {str(path.relative_to(server)) for path in package_folders(str(server))} - apart
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition("## The rooms of the server")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_/]+)` \|", section, re.MULTILINE)) == rooms


def test_every_command_that_is_declared_can_be_loaded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, points in project["entry-points"].items():
        for name, value in points.items():
            point = importlib.metadata.EntryPoint(name, value, group)
            assert point.load(), f"{group}: {name} = {value}"


def test_every_module_that_is_compiled_exists() -> None:
    # If one does not exist, none is compiled.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    assert hook["modules"]
    assert not [each for each in hook["modules"] if not (ROOT / each).is_file()]


def test_every_ignored_lint_rule_has_its_reason() -> None:
    lint = (ROOT / "pyproject.toml").read_text().partition("[tool.ruff.lint]")[2]
    ignored = lint.partition("[tool.ruff.lint.pydocstyle]")[0].partition("ignore = [")[2]
    rows = [row for row in ignored.splitlines() if re.match(r'\s+"[A-Z]+\d*",?', row)]
    assert rows
    assert not [row for row in rows if "#" not in row]


def test_every_dependency_has_a_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    assert not [line for line in wanted if ">=" not in line and not line.startswith("headwater[")]


def test_the_changelog_has_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


# The rules over bad input.


def source(text: str, path: str = "server/headwater_server/net/sample.py") -> Source:
    return Source(Path(path), text)


def test_a_rule_finds_long_modules_functions_and_folders() -> None:
    body = "    pass\n" * FUNCTION_LINES_MAX
    assert list(long_functions(source(f"def f():\n{body}")))
    assert not list(long_functions(source(f"def f():\n{body}".removesuffix("    pass\n"))))
    assert list(long_module(source("\n" * (MODULE_LINES_MAX + 1))))
    assert not list(long_module(source("\n" * MODULE_LINES_MAX)))
    names = [f"m{n}.py" for n in range(FOLDER_MODULES_MAX + 1)]
    assert list(crowded(Path("net"), names))
    assert not list(crowded(Path("net"), [*names[1:], "__init__.py"]))


def test_a_rule_finds_vague_names() -> None:
    assert list(vague_name(source("", "server/headwater_server/utils.py")))
    assert list(vague_name(source("", "client/headwater/key_helpers.py")))
    assert not list(vague_name(source("", "client/headwater/keys.py")))


def test_a_rule_finds_bounds_without_a_reason() -> None:
    assert list(bounds_without_reason(source("SIZE_MAX: Final = 3\nx = 1\n")))
    assert list(bounds_without_reason(source("SIZE_MAX: Final = 3\n")))
    assert not list(bounds_without_reason(source('SIZE_MAX: Final = 3\n"""Bytes."""\n')))
    assert not list(bounds_without_reason(source("# Bytes.\nSIZE_MAX: Final = 3\n")))


def test_a_rule_finds_tests_that_sleep_or_mock() -> None:
    assert list(waits_and_mocks(source("from unittest import mock\n")))
    assert list(waits_and_mocks(source("import unittest.mock\n")))
    assert list(waits_and_mocks(source("import time\ntime.sleep(1)\n")))
    assert not list(waits_and_mocks(source("import time\ntime.sleep(1)  # it is slow\n")))
    assert not list(waits_and_mocks(source("import time\ntime.time()\n")))


def test_a_rule_finds_tests_that_cannot_fail() -> None:
    assert list(checkless_tests(source("def test_of_nothing():\n    run()\n")))
    assert not list(checkless_tests(source("def test_it():\n    assert run()\n")))
    assert not list(checkless_tests(source("def test_it():\n    check_all(run())\n")))
    assert list(names_that_are_not_sentences(source("def test_wal():\n    assert 1\n")))


def test_a_rule_finds_links_that_do_not_exist() -> None:
    page = Path("README.md")
    assert list(missing_links(page, "[x](docs/missing.md)"))
    assert list(missing_links(page, "[x](#no-such-heading)"))
    assert not list(missing_links(page, "[x](LICENSE) [y](https://example.org/) `[z](file.md)`"))


def test_a_rule_finds_code_and_targets_that_do_not_exist() -> None:
    page = Path("README.md")
    assert list(missing_code(page, "`engine/missing.py`"))
    assert list(missing_code(page, "`missing/engine.py`"))
    assert list(missing_code(page, "`engine/missing`"))
    assert list(missing_code(page, "`engine/engine.py: no_such_function`"))
    assert not list(missing_code(page, "`engine/engine.py: commit`, `tests/net` and `a/b`"))
    assert list(missing_targets(page, "`make nothing`"))
    assert not list(missing_targets(page, "`make check`"))
