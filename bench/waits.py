"""How long a well-behaved client waits beside one request that is as much work as a request may be.

    python -m bench.waits                    every row
    python -m bench.waits --only delete      rows whose name has this word

One server with 100,000 keys and 100,000 events serves each row in turn. A client in its own
process pings all the time: first for two seconds beside nothing, then beside the request. The
longest wait of each is printed, and their ratio. Run it on a quiet machine: whatever else has the
processor makes both longer.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.synchronize
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgpack import unpackb

from bench import requests
from headwater.cli.server_process import ServerProcess
from headwater_protocol.limits import PROTOCOL_VERSION

KEYS: Final = 100_000
EVENTS: Final = 100_000
CATEGORY_STREAMS: Final = 1_000
WAIT_S_MAX: Final = 0.1
"""The wait that is aimed at."""

IDLE_S: Final = 2.0
PAUSE_S: Final = 0.002

Request = tuple[Any, ...]


class Asker:
    """A connection that sends a request and waits for its answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self._socket.makefile("rb")
        self.ask("hello", PROTOCOL_VERSION)

    def ask(self, name: str, *arguments: Any) -> str:
        """Send a request, and wait for its answer: the code of its error, or nothing."""
        # Not by a client, which would refuse some of the rows itself.
        self._socket.sendall(requests.frame(1, name, *arguments))
        size = int.from_bytes(self._received.read(4), "big")
        _, status, payload = unpackb(self._received.read(size))
        return str(payload[0]) if status else ""

    def close(self) -> None:
        """Close it."""
        self._received.close()
        self._socket.close()


def transaction() -> bytes:
    """A new transaction id: any 16 bytes."""
    return uuid.uuid4().bytes


def execute(
    conditions: Sequence[Any] = (), reads: Sequence[Any] = (), writes: Sequence[Any] = ()
) -> Request:
    """An execute."""
    return "execute", transaction(), list(conditions), list(reads), list(writes)


def event(*tags: str) -> list[Any]:
    """An event without data."""
    return [None, "T", b"", b"", list(tags)]


def rows() -> list[tuple[str, Request]]:
    """The requests, each with its name. Later ones may delete what earlier ones read."""
    absent = {"prefix": "zzz"}
    apart = {"query": [{"tags": ["all", "odd", "even"]}]}
    return [
        ("100 conditions on an absent prefix", execute([["no_events", absent, 0]] * 100)),
        (
            "100 reads of an absent prefix",
            execute(reads=[["read_all", 0, absent, 10_000, False]] * 100),
        ),
        ("a read of common tags that never meet", ("read_all", None, 0, apart)),
        ("20 conditions on them", execute([["no_events", apart, 0]] * 20)),
        ("100 reads of them", execute(reads=[["read_all", 0, apart, 10_000, False]] * 100)),
        ("1,000 conditions on all keys", execute([["unchanged", b"", None, 60]] * 1000)),
        ("10,000 gets", execute(reads=[["get", b"absent%d" % n] for n in range(10_000)])),
        ("10,000 loads", execute(reads=[["load", "absent", "", 0, None]] * 10_000)),
        (
            "10,000 scans",
            execute(
                reads=[["scan", b"a%d" % n, b"a%d" % (n + 1), 10, False] for n in range(10_000)]
            ),
        ),
        (
            "10,000 appends with conditions",
            execute(
                writes=[
                    ["append", f"u-{n}", -1, [event()], {"query": [{"tags": [f"none{n}"]}]}, 0]
                    for n in range(10_000)
                ]
            ),
        ),
        ("100,000 puts", execute(writes=[["put", b"w%07d" % n, b"v"] for n in range(100_000)])),
        ("100,000 adds to a key", execute(writes=[["add", b"n", 1]] * 100_000)),
        (
            "100,000 appends to new streams",
            execute(writes=[["append", f"e-{n}", 0, [event()]] for n in range(100_000)]),
        ),
        (
            "the erasure of 10,000 events",
            execute(writes=[["erase_positions", list(range(1, 10_001))]]),
        ),
        (
            "1,000 deletions of ranges of 50,000 keys",
            execute(writes=[["delete_range", b"k00000000", b"k00050000"]] * 1000),
        ),
        (
            "200 scans over 50,000 deleted keys",
            execute(reads=[["scan", b"k00000000", b"k00050000", 10, False]] * 200),
        ),
        (
            "the deletion of 1,000 streams",
            execute(writes=[["delete_stream", f"cat-{n}"] for n in range(1000)]),
        ),
        ("a listing over them", ("list_streams", "cat-", None, 10_000)),
        ("1.9 million empty arrays", ("ping", [[[]] * 99_999] * 19)),
    ]


def fill(client: Asker) -> None:
    """Put the keys, and append the events."""
    for start in range(0, KEYS, 10_000):
        client.ask(*execute(writes=[["put", b"k%08d" % (start + n), b"v"] for n in range(10_000)]))
    size = 100
    for start in range(0, EVENTS, 20 * size):
        streams = [(start // size + n) % CATEGORY_STREAMS for n in range(20)]
        tagged = [event("all", "odd" if n % 2 else "even") for n in range(size)]
        client.ask(*execute(writes=[["append", f"cat-{each}", -1, tagged] for each in streams]))


def ping_on(
    address: tuple[str, int],
    begun: multiprocessing.synchronize.Event,
    over: multiprocessing.synchronize.Event,
    waits: "multiprocessing.Queue[float]",
) -> None:
    """Ping until it is over, then tell the longest wait in seconds."""
    client = Asker(address)
    longest = 0.0
    while not over.is_set():
        began = time.perf_counter()
        client.ask("ping")
        longest = max(longest, time.perf_counter() - began)
        begun.set()
        time.sleep(PAUSE_S)
    waits.put(longest)


def longest_wait(address: tuple[str, int], request: Request | None) -> tuple[float, str]:
    """The longest wait beside a request, or beside nothing, in seconds; and the request's error."""
    begun, over = multiprocessing.Event(), multiprocessing.Event()
    waits: multiprocessing.Queue[float] = multiprocessing.Queue()
    process = multiprocessing.Process(target=ping_on, args=(address, begun, over, waits))
    client = Asker(address)
    process.start()
    begun.wait()
    error = ""
    if request is None:
        time.sleep(IDLE_S)
    else:
        error = client.ask(*request)
    over.set()
    longest = waits.get()
    process.join()
    client.close()
    return longest, error


def main(arguments: list[str]) -> int:
    """Run as a program; return how many rows made others wait for too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name has this word")
    given = parser.parse_args(arguments)
    too_long = 0
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(ServerProcess(Path(directory)))
        host, _, port = server.address.rpartition(":")
        address = (host, int(port))
        client = Asker(address)
        fill(client)
        client.close()
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        print(f"{'':44}{'idle ms':>9}{'wait ms':>9}{'ratio':>8}")
        for name, request in rows():
            if given.only not in name:
                continue
            idle, _ = longest_wait(address, None)
            wait, error = longest_wait(address, request)
            too_long += wait > WAIT_S_MAX
            print(
                f"{name:44}{idle * 1e3:9.1f}{wait * 1e3:9.1f}{wait / idle:8.1f}  {error}",
                flush=True,
            )
    return too_long


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
