"""Fixtures: the same log opened again and again, in each of the implementations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.wal.interface import (
    WriteAheadLog,
)
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_jetstream import MemoryJetStream
from headwater_server.testing.memory_write_ahead_log import MemoryLog
from tests.storage.wal.logs import (
    SEGMENT_SIZE,
    START,
    Copies,
    Opener,
    opener_of_files,
    opener_of_node,
    opener_of_stream,
)


@pytest.fixture(
    params=[
        "files in memory",
        "real files",
        "memory",
        "memory with duplicates",
        "jetstream",
        "node of a cluster",
    ]
)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same log at each call."""
    match request.param:
        case "node of a cluster":
            return opener_of_node(MemoryJetStream())
        case "jetstream":
            return opener_of_stream(request.getfixturevalue("nats_servers"))
        case "files in memory":
            return opener_of_files(MemoryFileSystem(1), "data/wal")
        case "real files":
            return opener_of_files(RealFileSystem(), str(tmp_path / "wal"))
        case _:
            log = MemoryLog(1)
            log.faults.duplicated = request.param == "memory with duplicates"
            return lambda: log.open(body_size_max=SEGMENT_SIZE // 2)


@pytest.fixture(params=["files in memory", "real files", "memory"])
def copies(request: pytest.FixtureRequest, tmp_path: Path) -> Copies:
    """Makes logs that are copies of others."""
    return Copies(request.param, str(tmp_path))


@pytest.fixture
def log(opener: Opener) -> Iterator[WriteAheadLog]:
    """A log with a claim."""
    log = opener()
    log.claim(START)
    yield log
    log.close()
