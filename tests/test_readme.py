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
