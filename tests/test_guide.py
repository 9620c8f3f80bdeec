"""The code of the guide runs, and prints what the guide says.

docs/guide/README.md explains how to write a page. Each page has its own empty server, and its own
module, in which its code blocks run in order, on trio, with a connected `db`.
"""

import ast
import contextlib
import inspect
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess

GUIDE: Final = Path(__file__).parent.parent / "docs/guide"
PAGES: Final = sorted(path.name for path in GUIDE.glob("*.md"))
PAGE_S_MAX: Final = 50.0

BLOCK: Final = re.compile(
    r"^```python(?P<words>[^\n]*)\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: the code, the words after `python`, and the output if the page shows it."""

    code: str
    words: tuple[str, ...]
    output: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        # Empty lines in front give tracebacks the line numbers of the page.
        above = "\n" * text.count("\n", 0, match.start("code"))
        found.append(Block(above + match["code"], tuple(match["words"].split()), match["output"]))
    return found


@contextlib.contextmanager
def module_named(name: str) -> Iterator[ModuleType]:
    """A context in which a new, empty module can be imported."""
    module = ModuleType(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


async def run_block(block: Block, page: Path, module: ModuleType) -> str:
    """Run a block, which may await at its top level; return its output."""
    code = compile(block.code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = eval(code, module.__dict__)
        if inspect.iscoroutine(outcome):
            await outcome
    return printed.getvalue()


def run_tests(block: Block, directory: Path) -> str:
    """Run a block that is a file of tests; return its output if a test fails."""
    file = directory / "test_page.py"
    file.write_text(block.code)
    where = str(directory)
    plugin = ["-p", "headwater_testing.plugin", "-p", "no:cacheprovider", "--rootdir", where]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, file],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_prints_what_the_page_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = GUIDE / name
    blocks = blocks_of(page)
    assert blocks, f"{name} has no code"

    async def run(module: ModuleType) -> None:
        with trio.fail_after(PAGE_S_MAX):
            async with headwater.connect(module.__dict__["url"]) as db:
                module.__dict__["db"] = db
                for block in blocks:
                    if "pytest" in block.words:
                        assert not await trio.to_thread.run_sync(run_tests, block, tmp_path)
                        continue
                    if "blocking" not in block.words:
                        printed = await run_block(block, page, module)
                    else:
                        with headwater.connect_blocking(module.__dict__["url"]) as blocking:
                            module.__dict__["db"] = blocking
                            printed = await run_block(block, page, module)
                            module.__dict__["db"] = db
                    if block.output is not None:
                        assert printed == block.output

    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "server"
    directory.mkdir()
    (directory / "backups").mkdir()
    options = ["--backup-dir", str(directory / "backups")]
    with ServerProcess(directory, options) as server, module_named(f"guide_{page.stem}") as module:
        module.__dict__.update(headwater=headwater, trio=trio, url=server.url)
        trio.run(run, module)


def test_each_page_is_in_the_list_of_the_guide() -> None:
    listed = re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\)", (GUIDE / "README.md").read_text(), re.M)
    assert sorted([*listed, "README.md"]) == PAGES


def test_the_words_after_python_are_known() -> None:
    for name in PAGES:
        for block in blocks_of(GUIDE / name):
            assert set(block.words) <= {"blocking", "pytest"}, name
