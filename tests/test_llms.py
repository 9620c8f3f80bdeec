"""llms.txt, the documentation for language models, is made from the pages and current."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llms", ROOT / "docs/llms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_current() -> None:
    assert (ROOT / "llms.txt").read_text() == _module().index(), "run `make llms`"


def test_it_lists_each_page_of_the_guide_and_its_files_exist() -> None:
    module = _module()
    listed = {path for _, path, _ in module.guide()} | {path for path, _ in module.OTHERS}
    pages = {f"docs/guide/{path.name}" for path in (ROOT / "docs/guide").glob("*.md")}
    assert pages - {"docs/guide/README.md"} <= listed
    assert all((ROOT / path).is_file() for path in listed)


def test_the_whole_text_has_each_page() -> None:
    module = _module()
    text = module.full()
    assert all(f"<!-- {path} -->" in text for _, path, _ in module.guide())
