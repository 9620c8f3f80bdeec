"""The code of the README runs on a real server and prints what the README shows.

Python blocks run in order, in one namespace, each like a program. A text block right after a Python
block is its output. Only the address of the server is replaced.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import Any, Final

from headwater.cli.server_process import ServerProcess
from headwater_protocol import limits

README: Final = Path(__file__).parent.parent / "README.md"
ADDRESS: Final = "headwater://localhost:4323"

BLOCK: Final = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


def test_the_code_of_the_readme_prints_what_the_readme_shows(tmp_path: Path) -> None:
    blocks = list(BLOCK.finditer(README.read_text()))
    assert blocks, "the README has no code"
    with ServerProcess(tmp_path) as server:
        names: dict[str, Any] = {"__name__": "__main__"}
        for block in blocks:
            code = block["code"].replace(ADDRESS, server.url)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(README), "exec"), names)
            if block["output"] is not None:
                assert printed.getvalue() == block["output"]


def test_the_limits_that_the_readme_names_are_those_of_the_code() -> None:
    said = " ".join(README.read_text().split())
    assert f"A key may have {limits.KEY_SIZE_MAX // limits.KIB} KiB" in said
    assert f"a value {limits.VALUE_SIZE_MAX // limits.MIB} MiB" in said
    assert f"a transaction {limits.TRANSACTION_SIZE_MAX // limits.MIB} MiB" in said


def test_the_picture_of_the_readme_has_the_figures_of_the_benchmarks() -> None:
    picture = (README.parent / "docs/benchmark-puts.svg").read_text()
    shown = re.findall(r">([\d.,]+)</text>", picture)
    table = (README.parent / "docs/benchmarks.md").read_text()
    puts, latencies = (
        re.search(rf"^\| {row} \|(.*)\|$", table, re.MULTILINE)
        for row in (
            "durable puts of 100 bytes a second, 32 connections",
            "the same, p50 and p99 in ms",
        )
    )
    assert puts is not None
    assert latencies is not None
    rates = [each.strip() for each in puts[1].split("|")]
    slowest = [each.split(",")[1].strip() for each in latencies[1].split("|")]
    assert shown == rates + slowest
