"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server in a process of its own for all tests that name it; they share its data."""
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server
