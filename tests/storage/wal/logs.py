"""Logs of every implementation for the tests here, and copies of them."""

import random
import time
import uuid
from collections.abc import Callable
from typing import Final

from headwater_server.net.jetstream.connection import NatsConnection
from headwater_server.storage.files.file_system import FileSystem, make_durable_directory
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.log import JetStreamLog
from headwater_server.storage.jetstream.settings import StreamPlan
from headwater_server.storage.jetstream.stream import Stream
from headwater_server.storage.wal.entry import ChainEnd
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import (
    LogEnd,
    WalIndex,
    WriteAheadLog,
    records,
)
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_jetstream import MemoryJetStream
from headwater_server.testing.memory_write_ahead_log import MemoryLog
from tests.cluster.nats_servers import NatsServers

DATABASE_ID: Final = b"database-of-test"
SEGMENT_SIZE: Final = 8 * 1024
START: Final = WalIndex(0)

Opener = Callable[[], WriteAheadLog]


def opener_of_files(disk: FileSystem, directory: str) -> Opener:
    return lambda: FileWriteAheadLog.open(
        disk,
        directory,
        database_id=DATABASE_ID,
        random=random.Random(1),
        segment_size=SEGMENT_SIZE,
    )


def opener_of_stream(servers: NatsServers) -> Callable[[], JetStreamLog]:
    """Opens the same log, in a new stream of these servers."""
    name = f"log-{uuid.uuid4().hex}"

    def opener() -> JetStreamLog:
        service = NatsConnection.open(servers.urls, "a test")
        stream = Stream(service, name, replicas_min=servers.replicas)
        state = stream.make(StreamPlan(name, servers.replicas, DATABASE_ID))
        return JetStreamLog(stream, state, random.Random(), body_size_max=SEGMENT_SIZE // 2)

    return opener


def opener_of_node(server: MemoryJetStream) -> Callable[[], ClusterLog]:
    """Opens the log of a node: a stream in memory, and a copy in files."""
    open_copy = opener_of_files(MemoryFileSystem(1), "data/wal")

    def opener() -> ClusterLog:
        stream = Stream(server.connect(), "log", replicas_min=1)
        state = stream.make(StreamPlan("log", 1, DATABASE_ID))
        log = JetStreamLog(stream, state, random.Random(), body_size_max=SEGMENT_SIZE // 2)
        return ClusterLog(open_copy(), log, time.monotonic)

    return opener


class Copies:
    """Makes empty logs that can take the entries of another, in each of the implementations."""

    def __init__(self, kind: str, directory: str) -> None:
        self._kind = kind
        self._directory = directory
        self._count = 0

    def make(self, end: LogEnd | None = None) -> tuple[WriteAheadLog, Opener]:
        """A copy that continues after *end*, by default from the first entry, and its opener."""
        self._count += 1
        after = START if end is None else end.index
        if self._kind == "memory":
            # Another seed: ids of entries are unique over all writers.
            log = MemoryLog(100 + self._count)
            if end is not None:
                log.last = log.before_first = ChainEnd(end.index, end.epoch, end.hash, START)
                log.first_index = WalIndex(after + 1)
            return log.open(), log.open
        disk: FileSystem
        if self._kind == "real files":
            disk, directory = RealFileSystem(), f"{self._directory}/copy-{self._count}"
        else:
            disk, directory = MemoryFileSystem(1), "data/copy"
        if end is not None:
            make_durable_directory(disk, directory)
            begin_files(disk, directory, database_id=DATABASE_ID, after=after, end=end)
        opener = opener_of_files(disk, directory)
        return opener(), opener


def all_records(log: WriteAheadLog, after: WalIndex = START) -> list[bytes]:
    return [record for _, record in records(log.read(after))]


def fill(log: WriteAheadLog, count: int, *, size: int = 700) -> None:
    source = random.Random(count)
    for _ in range(count):
        log.submit([source.randbytes(source.randrange(size)) for _ in range(3)])


def packed_after(log: WriteAheadLog, after: int, size_max: int) -> list[bytes]:
    cursor = log.cursor(WalIndex(after))
    found: list[bytes] = []
    while taken := cursor.take(size_max):
        found += taken
    return found
