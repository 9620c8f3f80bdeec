"""Compares a database with one that has ten times as many keys.

Two servers are filled once and measured alternately. The requested keys are drawn from all keys,
and are more than the server's caches hold.
"""

import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import BufferedReader
from pathlib import Path
from typing import Final

from msgpack import unpackb

from bench import requests
from bench.load import Cycle, Load, LoadFailed, Script, Step
from bench.requests import HELLO, Transactions
from bench.servers import Headwater
from bench.workloads import VALUE_SIZE, key

SIZES: Final = (1_000_000, 10_000_000)
"""Keys of the small database and of the large one."""

CONNECTIONS: Final = 32
CYCLES: Final = 2048
"""Different keys that one connection reads before it repeats them."""

BATCH: Final = 1000
"""Keys in each transaction while filling."""

DEPTH: Final = 8
"""Concurrent transactions while filling."""

POOL: Final = random.Random(3).randbytes(1 << 16)
"""Values are slices of these bytes, so that adjacent values do not compress away."""


def value(number: int) -> bytes:
    """The value of the number-th key."""
    start = number * 7919 % (len(POOL) - VALUE_SIZE)
    return POOL[start : start + VALUE_SIZE]


def sizes(
    load: Load, directory: Path, rounds: int, seconds: float, keys: Sequence[int] = SIZES
) -> Iterator[tuple[str, list[float]]]:
    """For gets and puts: the rate of the large database divided by that of the small one."""
    with ExitStack() as running:
        servers: list[tuple[Headwater, int]] = []
        for count in keys:
            server = Headwater(directory / f"keys-{count}")
            server.start()
            running.callback(server.stop)
            _fill(server.port, count)
            servers.append((server, count))
        for what in ("get", "put"):
            ratios: list[float] = []
            for turn in range(rounds):
                small, large = (
                    load.run(
                        "headwater",
                        server.port,
                        [_script(what, count, turn * CONNECTIONS + n) for n in range(CONNECTIONS)],
                        warm_up_s=1.0,
                        measure_s=seconds,
                    ).rate
                    for server, count in servers
                )
                ratios.append(large / small)
            yield what, ratios


def _script(what: str, count: int, seed: int) -> Script:
    source = random.Random(seed)
    ids = Transactions()
    cycles: list[Cycle] = []
    for place in range(1, CYCLES + 1):
        number = source.randrange(count)
        if what == "get":
            cycles.append(Cycle([Step(requests.frame(place, "get", None, key(number)))]))
        else:
            writes = [["put", key(number), value(number + 1)]]
            frame = requests.frame(place, "execute", ids.id, [], [], writes)
            cycles.append(Cycle([Step(frame, marks=ids.marks)]))
    return Script(cycles, HELLO)


def _fill(port: int, count: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answers = connection.makefile("rb")
        connection.sendall(HELLO.data)
        # Before the answer to hello, the server accepts only small requests.
        _take(answers)
        under_way = 0
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            writes = [["put", key(number), value(number)] for number in numbers]
            ids = Transactions()
            frame = requests.frame(2 + first // BATCH, "execute", ids.id, [], [], writes)
            connection.sendall(ids.first(frame))
            under_way += 1
            if under_way > DEPTH:
                _take(answers)
                under_way -= 1
        for _ in range(under_way):
            _take(answers)


def _take(answers: BufferedReader) -> None:
    """Read one answer, and check that it is not an error."""
    size = int.from_bytes(answers.read(4), "big")
    _, status, payload = unpackb(answers.read(size), strict_map_key=False)
    if status != 0:
        raise LoadFailed(f"filling: {payload}")
