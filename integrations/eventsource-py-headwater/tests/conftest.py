"""A server process that all tests of a worker share. Each test takes a space of its own."""

import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import headwater
from headwater.cli.server_process import ServerProcess


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The library's suites run with pytest-asyncio in its automatic mode.
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.anyio)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as process:
        yield process


@pytest.fixture
async def database(server: ServerProcess, anyio_backend: str) -> AsyncIterator[headwater.Database]:  # noqa: ARG001
    async with headwater.connect(server.url) as database:
        yield database


@pytest.fixture
def space() -> str:
    return f"test-{uuid4()}"
