"""What all tests share.

They run on the source, since some replace parts of it, and so do the servers that they start.
`make test-compiled` runs those that look from outside on the compiled modules.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything of ours is imported: see headwater_protocol/compiled.py.
os.environ.setdefault("HEADWATER_PURE", "1")

from headwater.cli.server_process import ServerProcess
from headwater_protocol import compiled


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what can only be done to the source, if that is not what runs."""
    if compiled.in_use():
        skipped = pytest.mark.skip(reason="replaces parts of compiled classes")
        for item in items:
            if item.get_closest_marker("source"):
                item.add_marker(skipped)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server in a process of its own for all tests that name it; they share its data."""
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server
