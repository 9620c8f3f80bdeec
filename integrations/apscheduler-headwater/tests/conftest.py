"""What the tests of APScheduler ask for, and a server process that all tests of a worker share."""

import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from apscheduler.abc import DataStore, EventBroker
from apscheduler.eventbrokers.local import LocalEventBroker
from apscheduler_headwater import HeadwaterDataStore, HeadwaterEventBroker

from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as process:
        yield process


@pytest.fixture
def raw_datastore(server: ServerProcess) -> DataStore:
    return HeadwaterDataStore(server.url, space=str(uuid4()), start_from_scratch=True)


@pytest.fixture
def raw_event_broker(server: ServerProcess) -> EventBroker:
    return HeadwaterEventBroker(server.url, stream=f"events of {uuid4()}")


@pytest.fixture
def local_broker() -> EventBroker:
    return LocalEventBroker()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def timezone() -> ZoneInfo:
    return ZoneInfo("Europe/Berlin")


@pytest.fixture(scope="session")
def logger() -> logging.Logger:
    return logging.getLogger("apscheduler")
