"""The documentation site has every public name, every command and every page."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Final

import pytest

import headwater

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_on_one_page_of_the_reference(hooks: ModuleType) -> None:
    pages = hooks.reference_names()
    names = [name for page in pages.values() for name in page]
    assert sorted(names) == sorted(headwater.__all__)
    assert {name for name in hooks.ASYNCHRONOUS if name not in headwater.__all__} == set()
    assert pages.keys() | {"reference/command-line.md"} == hooks.REFERENCE.keys()


def test_every_public_name_has_a_docstring() -> None:
    missing = [
        name
        for name in headwater.__all__
        if isinstance(thing := getattr(headwater, name), type) and not thing.__doc__
    ]
    assert missing == []


def test_the_page_of_commands_shows_the_help_of_each(hooks: ModuleType) -> None:
    page = hooks.command_page()
    for name in ("serve", "config check", "group parked", "user grant"):
        assert f"\n## {name}\n" in page
        assert f"Usage: headwater {name} " in page


def test_the_navigation_has_every_page_of_the_guide_and_of_the_decisions(hooks: ModuleType) -> None:
    for page in hooks.PAGES_FROM:
        folder = (DOCS / page).parent
        files = {str(path.relative_to(DOCS)) for path in folder.glob("*.md")}
        assert {*hooks.listed(page), page} | hooks.ELSEWHERE & files == files


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[code](../server/headwater_server/main.py)", "code"),
        ("[read](../README.md#its-limits)", "read"),
        ("[the `a[0]` of it](../../tests/x.py)", "the `a[0]` of it"),
        ("[format](../format.md)", "[format](../format.md)"),
        ("[up](../architecture.md#the-rooms)", "[up](../architecture.md#the-rooms)"),
    ],
)
def test_a_link_out_of_the_site_becomes_text(hooks: ModuleType, text: str, shown: str) -> None:
    name = "guide/page.md" if "format" in shown or "architecture" in shown else "page.md"
    page = SimpleNamespace(file=SimpleNamespace(src_path=name))
    assert hooks.on_page_markdown(text, page=page) == shown


def test_no_help_shows_the_marks_of_its_source(hooks: ModuleType) -> None:
    # In a raw docstring, click's mark for a paragraph that is not wrapped is plain text.
    assert "\\b" not in hooks.command_page()
