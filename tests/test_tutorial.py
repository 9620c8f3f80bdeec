"""Every step of the tutorial runs, for each of its tabs, and prints what the page shows.

A block with a title is a file. A block of the shell runs in the reader's folder, and the text block
after it is its output. `headwater serve` (re)starts the server.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trustme

from headwater.cli.server_process import ServerProcess

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs/tutorial.md"
FACES: Final = ("asyncio", "blocking")
ADDRESS: Final = "localhost:4323"

PROGRAMS: Final = {
    "python": "",
    "headwater": "-m headwater",
    "pytest": "-m pytest -p headwater_testing.plugin -p no:cacheprovider",
}


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page. *tab* is None for one that is for all faces."""

    tab: str | None
    language: str
    title: str | None
    text: str


def blocks_of(page: str) -> list[Block]:
    found = []
    tab = None
    fence = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?$')
    lines = iter(page.splitlines())
    for line in lines:
        if named := re.fullmatch(r'=== "(\w+)"', line):
            tab = named[1]
        elif opened := fence.match(line):
            indent = opened[1]
            text = []
            for inner in lines:
                if inner == f"{indent}```":
                    break
                text.append(inner.removeprefix(indent))
            own = tab if indent else None
            found.append(Block(own, opened[2], opened[3], "\n".join(text) + "\n"))
        elif line and not line.startswith(" "):
            tab = None
    return found


class Reader:
    """Follows the steps in a folder, with programs of this Python and a server."""

    def __init__(self, folder: Path, face: str) -> None:
        self.folder = folder
        self.face = face
        self.server: ServerProcess | None = None
        self.environment: dict[str, str] = {}
        programs = folder / "bin"
        programs.mkdir()
        for name, arguments in PROGRAMS.items():
            tool = programs / name
            tool.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            tool.chmod(0o755)
        self._declare_commands(folder / "metadata")

    def _declare_commands(self, folder: Path) -> None:
        """Give the programs the commands of the checkout, whatever was installed before."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines = [f"Name: {project['name']}", f"Version: {project['version']}", ""]
        info = folder / f"{project['name']}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines]))
        with (info / "entry_points.txt").open("w") as points:
            for group, named in project["entry-points"].items():
                points.write(f"[{group}]\n")
                points.writelines(f"{name} = {place}\n" for name, place in named.items())
        known = [str(folder), *sys.path, os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, known))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self._addressed(text))

    def shell(self, text: str) -> str:
        """Run the lines of a block; return what they print."""
        if text.startswith("headwater serve"):
            self.serve(text)
            return ""
        if "pip install" in text:
            return ""
        ran = subprocess.run(
            ["/bin/bash", "-ec", f"{self._addressed(text)}\nenv > environment"],
            cwd=self.folder,
            env={
                **os.environ,
                **self.environment,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HEADWATER_URL": self.environment.get("HEADWATER_URL")
                or self._addressed(f"headwater://{ADDRESS}"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{text}\n{ran.stdout}{ran.stderr}"
        # What the reader exports stays in the terminal.
        exported = set(re.findall(r"(HEADWATER_\w+)=", text))
        for line in (self.folder / "environment").read_text().splitlines():
            name, _, value = line.partition("=")
            if name in exported:
                self.environment[name] = value
        return ran.stdout

    def serve(self, command: str) -> None:
        self.stop()
        config = self.folder / shlex.split(command)[-1]
        self.server = ServerProcess(self.folder, ["--config", str(config)])
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _addressed(self, text: str) -> str:
        if self.server is None:
            return text
        # The certificate is for the name, and not for the address.
        return text.replace(ADDRESS, f"localhost:{self.server.address.rpartition(':')[2]}")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("face", FACES)
def test_the_steps_of_the_tutorial_do_what_they_say(
    face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chain = authority.issue_cert("localhost").private_key_and_cert_chain_pem
    chain.write_to_path(str(tmp_path / "chain.pem"))
    # The server's paths are relative to the folder, as in the reader's second terminal.
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, face)
    printed = ""
    try:
        for block in blocks_of(PAGE.read_text()):
            if block.tab not in (None, face):
                continue
            if block.title is not None:
                reader.write(block.title, block.text)
            elif block.language == "sh":
                if " --data data --password-stdin" in block.text:
                    reader.stop()
                printed = reader.shell(block.text)
            else:
                assert block.language == "text"
                assert printed == block.text
    finally:
        reader.stop()


def test_every_program_is_there_for_each_face() -> None:
    files: dict[str, list[str]] = {face: [] for face in FACES}
    for block in blocks_of(PAGE.read_text()):
        if block.title is not None and block.tab is not None:
            files[block.tab].append(block.title)
    assert files["asyncio"] == files["blocking"]
    assert len(files["asyncio"]) >= 5
