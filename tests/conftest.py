"""Settings and fixtures of all tests.

Tests run the source modules, because some replace parts of them. The servers that they start run
the source too. `make test-compiled` runs the black-box tests on the compiled modules.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# This must be set before our modules are imported, see headwater_protocol/compiled.py.
os.environ.setdefault("HEADWATER_PURE", "1")

from headwater.cli.server_process import ServerProcess
from headwater_protocol import compiled
from tests.cluster.nats_servers import NatsServers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that replace parts of the source, if compiled modules run."""
    if compiled.in_use():
        skipped = pytest.mark.skip(reason="replaces parts of compiled classes")
        for item in items:
            if item.get_closest_marker("source"):
                item.add_marker(skipped)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server process for all tests that use this fixture. They share its data."""
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as server:
        yield server


@pytest.fixture(scope="session")
def nats_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServers]:
    """HEADWATER_NATS_REPLICAS servers of NATS, by default 1, for all tests that use this."""
    replicas = int(os.environ.get("HEADWATER_NATS_REPLICAS", "1"))
    servers = NatsServers(Path(tmp_path_factory.mktemp("nats")), replicas)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
