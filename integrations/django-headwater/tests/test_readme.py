"""The code of README.md runs, and prints what README.md says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from headwater.cli.server_process import ServerProcess

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def blocks(server: ServerProcess) -> Iterator[list[tuple[str, str]]]:
    text = README.read_text().replace("headwater://localhost:4323", server.url)
    settings, *rest = re.findall(r"```(python|text)\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(settings[1], "README.md", "exec"), names)
    with override_settings(**{name: value for name, value in names.items() if name.isupper()}):
        yield rest


def test_the_code_of_the_readme_prints_what_it_says(
    blocks: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)
    assert capsys.readouterr().out == "".join(text for kind, text in blocks if kind == "text")
