"""A server process, which all tests share. Each takes a prefix of its own."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as process:
        yield process


@pytest.fixture
def prefix() -> str:
    return f"test {uuid4()}"
