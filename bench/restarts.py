"""How fast a server replays its log: a start with a long log, less a start with none.

    fill: COMMITS puts, no checkpoint -> kill -9 -> start: processor time until it listens

A start takes half a second whatever there is to replay, so a start on an empty directory is
measured in each round as well. It is the processor's time that counts: the difference of two
passed times can be anything on a machine that is busy. Measured from outside, a checkout may
change its engine as it likes.
"""

import shutil
import socket
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Final

from bench import requests
from bench.checkouts import Checkout
from bench.conditions import NO_CHECKPOINT
from bench.load import LoadFailed
from bench.requests import HELLO, Transactions
from bench.servers import Headwater, cpu_seconds
from bench.workloads import KEYS, VALUE, key

COMMITS: Final = 300_000
"""Commits of the log: so many that their replay takes longer than the rest of a start."""

WINDOW: Final = 500
"""Requests of the filling that are sent before their answers are read."""


class Restarts:
    """A data directory with a long log that no checkpoint has shortened."""

    def __init__(self, checkout: Checkout, directory: Path) -> None:
        self._environment = dict(checkout.environment)
        self._directory = directory
        self._full = Headwater(directory / "full", NO_CHECKPOINT, self._environment)

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
        """Commits that are replayed in a second of processor time.

        Raises:
            LoadFailed: there was nothing to replay.
        """
        empty = Headwater(self._directory / "empty", NO_CHECKPOINT, self._environment)
        empty_s = _start_cpu_s(empty)
        shutil.rmtree(self._directory / "empty")
        return replay_rate(_start_cpu_s(self._full), empty_s)


def replay_rate(full_s: float, empty_s: float) -> float:
    """Commits a second, of a start with the log and one without.

    Raises:
        LoadFailed: the start with the log was not longer.
    """
    if full_s <= empty_s:
        raise LoadFailed(f"a start with {COMMITS:,} commits took {full_s} s, without {empty_s} s")
    return COMMITS / (full_s - empty_s)


def _start_cpu_s(server: Headwater) -> float:
    """Processor time of a start; the server is killed then, so that the log stays as it is."""
    server.start()
    used_s = cpu_seconds(server.pid)
    server.process.kill()
    return used_s


def fill(port: int) -> None:
    """Commit so many puts, each in a transaction of its own."""
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
