"""The code of README.md runs, and prints what README.md says."""

import re
from pathlib import Path

import pytest

from headwater.cli.server_process import ServerProcess

README = Path(__file__).parent.parent / "README.md"


def test_the_code_of_the_readme_prints_what_it_says(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```(python|text)\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    expected = ""
    for language, text in blocks:
        if language == "text":
            expected += text
            continue
        code = text.replace("headwater://localhost:4323", server.url)
        exec(compile(code, "README.md", "exec"), names)
    assert capsys.readouterr().out == expected
