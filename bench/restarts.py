"""How fast a server replays its log: the time of a start with a long log minus one without.

    fill: COMMITS puts, no checkpoint -> kill -9 -> start: processor time until it listens

A start takes half a second even without a log, so each round also measures a start on an empty
directory. The figures are processor times, because differences of elapsed times mean nothing on a
busy machine. The measurement uses only the server's program, so a checkout may change its engine.
"""

import shutil
import socket
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Final

from bench import requests
from bench.checkouts import Checkout
from bench.conditions import NO_CHECKPOINTS
from bench.load import LoadFailed
from bench.requests import HELLO, Transactions
from bench.servers import Headwater, cpu_seconds
from bench.workloads import KEYS, VALUE, key

COMMITS: Final = 300_000
"""Commits in the log, enough that their replay takes longer than the rest of a start."""

WINDOW: Final = 500
"""Requests that are sent before their answers are read, while filling."""


class Restarts:
    """A data directory with a long log and no checkpoint."""

    def __init__(self, checkout: Checkout, directory: Path) -> None:
        self._environment = dict(checkout.environment)
        self._directory = directory
        self._full = Headwater(directory / "full", NO_CHECKPOINTS, self._environment)

    def __enter__(self) -> "Restarts":
        self._full.start()
        try:
            fill(self._full.port)
        finally:
            self._full.process.kill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._full.stop()

    def rate(self) -> float:
        """Replayed commits per second of processor time.

        Raises:
            LoadFailed: the log was empty.
        """
        empty = Headwater(self._directory / "empty", NO_CHECKPOINTS, self._environment)
        empty_s = _start_cpu_s(empty)
        shutil.rmtree(self._directory / "empty")
        return replay_rate(_start_cpu_s(self._full), empty_s)


def replay_rate(full_s: float, empty_s: float) -> float:
    """Commits per second, from a start with the log and one without.

    Raises:
        LoadFailed: the start with the log was not longer.
    """
    if full_s <= empty_s:
        raise LoadFailed(f"a start with {COMMITS:,} commits took {full_s} s, without {empty_s} s")
    return COMMITS / (full_s - empty_s)


def _start_cpu_s(server: Headwater) -> float:
    """Processor time of a start. The server is then killed, so that the log is unchanged."""
    server.start()
    used_s = cpu_seconds(server.pid)
    server.process.kill()
    return used_s


def fill(port: int) -> None:
    """Commit the puts, each in its own transaction."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answers = connection.makefile("rb")
        connection.sendall(HELLO.data)
        _take(answers)
        for first in range(0, COMMITS, WINDOW):
            frames: list[bytes] = []
            for place in range(WINDOW):
                ids = Transactions()
                put = ["put", key((first + place) % KEYS), VALUE]
                frame = requests.frame(2 + place, "execute", ids.id, [], [], [put])
                frames.append(ids.first(frame))
            connection.sendall(b"".join(frames))
            for _ in frames:
                _take(answers)


def _take(answers: BufferedReader) -> None:
    size = int.from_bytes(answers.read(4), "big")
    answer = answers.read(size)
    # [request id, status, payload]; an id of up to three bytes.
    status = answer[2 + {0xCC: 1, 0xCD: 2}.get(answer[1], 0)]
    if status != 0:
        raise LoadFailed(f"filling: {answer!r}")
