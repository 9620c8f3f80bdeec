"""A server process for the tests: a new one for each test that wants positions from 1."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that tests share. Each takes a context of its own."""
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as process:
        yield process


@pytest.fixture
def new_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """An empty server, as the attribute `server` of a class of tests."""
    with ServerProcess(tmp_path) as process:
        if request.instance is not None:
            request.instance.server = process
        yield process
