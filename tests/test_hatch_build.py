"""The build hook compiles a small module, or warns why it cannot."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hatch_build import CompileHook, remove_compiled

MODULE = "protocol/sample/doubled.py"


class Application:
    """The part of Hatchling's application that the hook uses."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


def build(root: Path, version: str, modules: list[str]) -> tuple[dict[str, Any], list[str]]:
    application = Application()
    hook = CompileHook(str(root), {"modules": modules}, None, None, str(root), "wheel", application)  # type: ignore[arg-type]
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, data)
    hook.finalize(version, data, "")
    return data, application.warnings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWATER_PURE", "0")
    (tmp_path / "protocol" / "sample").mkdir(parents=True)
    (tmp_path / "protocol" / "sample" / "__init__.py").write_text("")
    (tmp_path / MODULE).write_text("def doubled(number: int) -> int:\n    return 2 * number\n")
    return tmp_path


ROOT = Path(__file__).parent.parent


def compiled_modules() -> list[str]:
    """The modules that are compiled, by their paths in the checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    modules: list[str] = hook["modules"]
    return modules


def test_every_module_that_is_to_be_compiled_exists() -> None:
    # If one file in the list was missing, a build used to compile nothing, with a warning.
    modules = compiled_modules()
    assert modules
    assert [module for module in modules if not (ROOT / module).is_file()] == []


def test_no_interpreted_class_inherits_from_a_compiled_one() -> None:
    """Creating an instance of such a class fails, and only where the modules are compiled."""
    compiled = compiled_modules()
    concrete = {
        (path.removesuffix(".py").split("/", 1)[1].replace("/", "."), node.name)
        for path in compiled
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.ClassDef)
        and "Protocol" not in {ast.unparse(base).partition("[")[0] for base in node.bases}
    }
    assert concrete
    found = []
    for path in ROOT.glob("*/headwater*/**/*.py"):
        name = str(path.relative_to(ROOT))
        if name in compiled:
            continue
        tree = ast.parse(path.read_text())
        imported = {
            (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        bases = {
            ast.unparse(base).partition("[")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for base in node.bases
        }
        found += [f"{name}: {base}" for module, base in imported & concrete if base in bases]
    assert found == []


@pytest.mark.slow
def test_an_editable_build_compiles_into_the_checkout_and_records_its_sources(
    project: Path,
) -> None:
    data, warnings = build(project, "editable", [MODULE])
    assert not warnings
    assert not data["force_include"]
    assert list(json.loads((project / "protocol" / "headwater__mypyc.json").read_text())) == [
        MODULE
    ]
    say = "from sample import doubled; print(doubled.doubled(21), doubled.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", say],
        env={**os.environ, "PYTHONPATH": str(project / "protocol")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.startswith("42 ")
    assert told.endswith(".so\n")
    remove_compiled(project)
    assert not list(project.rglob("*.so"))


def test_a_build_that_cannot_compile_continues_with_a_warning(project: Path) -> None:
    (project / MODULE).write_text("def doubled(number: int) -> int:\n    return 'two'\n")
    data, warnings = build(project, "standard", [MODULE])
    assert data == {"force_include": {}}
    assert "without compiled modules" in warnings[0]


def test_nothing_is_compiled_with_headwater_pure(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_PURE", "1")
    assert build(project, "editable", [MODULE]) == ({"force_include": {}}, [])
