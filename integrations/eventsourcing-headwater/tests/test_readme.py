"""The code of README.md runs, and prints what README.md says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headwater.cli.server_process import ServerProcess

README = Path(__file__).parent.parent / "README.md"


def test_the_code_of_the_readme_prints_what_it_says(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSISTENCE_MODULE", "eventsourcing_headwater")
    monkeypatch.setenv("HEADWATER_URL", server.url)
    blocks = re.findall(r"```(python|text)\n(.*?)```", README.read_text(), re.DOTALL)
    # The library finds classes by the name of their module.
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    names = vars(module)
    expected = ""
    for language, text in blocks:
        if language == "text":
            expected += text
        else:
            exec(compile(text, "README.md", "exec"), names)
    assert capsys.readouterr().out == expected
    bank = names["bank"]
    bank.close()
