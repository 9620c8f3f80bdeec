"""The container: the instructions of the Dockerfile, run without a container engine."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trustme
from click.testing import CliRunner

from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from headwater_server.net.server import SHUTDOWN_NOTICE_S_MAX
from headwater_server.net.settings import SECOND_MS, ServerSettings

DOCKERFILE: Final = (Path(__file__).parent.parent / "Dockerfile").read_text().replace("\\\n", " ")
KILLED_AFTER_S: Final = 10.0
"""When `docker stop` and compose kill a container, by default."""


def environment() -> dict[str, str]:
    """The settings that the image gives to every command."""
    (line,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(line))


def health_check() -> list[str]:
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words: list[str] = json.loads(command)
    return words


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_passes_with_and_without_tls(tmp_path: Path, tls: bool) -> None:
    given = environment()
    socket = str(tmp_path / "s")
    options = ["--unix", socket]
    if tls:
        chain = tmp_path / "chain.pem"
        pem = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem
        chain.write_bytes(pem.bytes())
        options += ["--tls-cert", str(chain)]
    checked = [word.replace(given["HEADWATER_UNIX"], socket) for word in health_check()]
    assert checked[0] == "headwater"
    with ServerProcess(tmp_path, options):
        ended = CliRunner().invoke(main, checked[1:])
        assert ended.exit_code == 0, ended.output


def test_serve_takes_the_settings_of_the_image_whatever_options_are_added(tmp_path: Path) -> None:
    given = {name: value for name, value in environment().items() if name.startswith("HEADWATER")}
    assert given["HEADWATER_UNIX"] in given["HEADWATER_URL"]
    # Without a user the server refuses to listen, and the error names the address.
    ended = subprocess.run(
        [sys.executable, "-m", "headwater_server", "serve", "--log-level", "error"],
        env={
            **os.environ,
            **given,
            "HEADWATER_DATA": str(tmp_path / "data"),
            "HEADWATER_UNIX": str(tmp_path / "s"),
            "HEADWATER_LISTEN": given["HEADWATER_LISTEN"].replace("4323", "0"),
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 1
    assert "other machines can reach 0.0.0.0" in ended.stderr


def test_the_server_stops_well_before_a_container_is_killed() -> None:
    waits_s = ServerSettings(data="").shutdown_ms_max / SECOND_MS + SHUTDOWN_NOTICE_S_MAX
    # A stop takes 8 seconds, which leaves 2 seconds for the last checkpoint.
    assert waits_s + 2 <= KILLED_AFTER_S - 2
