"""The container: the instructions of the Dockerfile, run without a container engine."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
import trustme
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from headwater_server.net.server import SHUTDOWN_NOTICE_S_MAX
from headwater_server.net.settings import SECOND_MS, ServerSettings

ROOT: Final = Path(__file__).parent.parent
PINS: Final = ROOT / "deploy/container/pins.txt"
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
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


def lines_of(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def test_the_process_is_not_root_and_a_signal_stops_it() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["headwater"]
    assert lines_of("STOPSIGNAL") == ["SIGTERM"]
    # In the other form a shell would get the signal, and not the server.
    assert json.loads(lines_of("ENTRYPOINT")[0]) == ["headwater"]
    assert json.loads(lines_of("CMD")[-1]) == ["serve"]


def test_the_labels_have_the_version_and_the_license_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (words,) = lines_of("LABEL")
    labels = dict(word.split("=", 1) for word in shlex.split(words))
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert f"VERSION={project['version']}" in lines_of("ARG")


def test_dependencies_are_installed_before_the_sources_are_copied() -> None:
    # Else every changed line would install them anew.
    first = DOCKERFILE.index("COPY pyproject.toml")
    assert first < DOCKERFILE.index("-r server.txt -c pins.txt") < DOCKERFILE.index("COPY . .")
    for file in re.split(r" +", lines_of("COPY")[0])[:-1]:
        assert (ROOT / file).is_file()
        assert f"!{file}" in (ROOT / ".dockerignore").read_text().split()


def test_every_dependency_of_the_image_is_pinned_to_an_allowed_version() -> None:
    pins = {
        canonical(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==(.*)$", PINS.read_text(), re.MULTILINE)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["server"], *extras["console"]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonical(requirement.name)])


def test_the_server_works_if_it_may_write_its_data_and_its_socket_only(tmp_path: Path) -> None:
    # What a read-only root allows. The directory of the program and the current one are read-only.
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    with ServerProcess(data, ["--unix", str(run / "socket")]) as server:
        opened = {
            os.readlink(link)
            for link in Path(f"/proc/{server.pid}/fd").iterdir()
            if writes(link) and os.path.isabs(os.readlink(link))
        }
    allowed = (str(data), "/dev/", "/memfd:")
    assert [path for path in opened if not path.startswith(allowed)] == []


def writes(link: Path) -> bool:
    """Whether the open file may be written to."""
    info = (link.parent.parent / "fdinfo" / link.name).read_text()
    (flags,) = re.findall(r"^flags:\s+0?(\d+)$", info, re.MULTILINE)
    return int(flags, 8) & (os.O_WRONLY | os.O_RDWR) != 0
