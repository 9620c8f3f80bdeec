"""The memory of a server with many unkind connections, beside one that is well behaved.

    python -m bench.unkind                               10,000 connections, a budget of 256 MiB
    python -m bench.unkind --connections 300 --budget 64

First all connections are idle: that is the base. Then each does harm of one sort: it sends half a
frame, does not read its answers, leaves transactions open, or opens subscriptions and memberships
that it does not read. The server must stay within the base and the budget, and serve the client
that is well behaved.
"""

import argparse
import contextlib
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

import headwater
from headwater.cli.server_process import ServerProcess
from headwater_protocol.connection import ClientConnection
from headwater_protocol.keys import encode_key
from headwater_protocol.limits import KIB, MIB, PROTOCOL_VERSION
from headwater_protocol.messages import encode

VALUE_SIZE: Final = 1 * MIB
GROUPS: Final = 50
EVENTS: Final = 5_000
SAMPLE_S: Final = 0.05
SETTLE_S: Final = 3.0
DESCRIPTORS_SPARE: Final = 200


class Unkind:
    """A connection that never reads after hello."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        # A small buffer, so that what is not read stays in the server.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        self.socket.connect(address)
        self._connection = ClientConnection()
        self.ask("hello", PROTOCOL_VERSION)
        while not self._connection.receive(self.socket.recv(64 * KIB)):
            pass
        self.socket.setblocking(False)

    def ask(self, name: str, *arguments: object) -> None:
        """Send a request as far as the socket takes it."""
        self.push(self._connection.request(name, *arguments)[1])

    def push(self, data: bytes) -> None:
        """Send bytes as far as the socket takes them. A closed connection is no failure."""
        with contextlib.suppress(OSError):
            self.socket.send(data)


def half_a_frame(one: Unkind, _: int) -> None:
    """Send the size of a large frame, and a part of it."""
    one.push((8 * MIB).to_bytes(4, "big") + encode([1, "ping"])[:1] + bytes(512 * KIB))


def unread_answers(one: Unkind, _: int) -> None:
    """Ask for megabytes and do not read them."""
    for _ in range(16):
        one.ask("get", None, headwater_key("large"))


def open_transactions(one: Unkind, number: int) -> None:
    """Begin transactions that write and read, and leave them open."""
    for place in range(4):
        transaction = os.urandom(16)
        one.ask("begin", transaction)
        key = headwater_key(f"{number} {place}")
        one.ask("write", transaction, [["put", key, bytes(32 * KIB)]])
        one.ask("get", transaction, key * 20)


def subscriptions(one: Unkind, number: int) -> None:
    """Subscribe to everything and to long filters, with much credit."""
    one.ask("subscribe", 0, {}, 1_000_000)
    one.ask("subscribe_keys", b"", None, 0, 1_000_000)
    for place in range(8):
        tags = [f"{number} {place} {each}".ljust(200, "x") for each in range(20)]
        one.ask("subscribe", 0, {"query": [{"tags": tags}]}, 1_000_000)


def memberships(one: Unkind, number: int) -> None:
    """Join consumer groups and acknowledge nothing."""
    for place in range(3):
        one.ask("group_join", f"group {(number + place) % GROUPS}", 1_000)


SORTS: Final[tuple[Callable[[Unkind, int], None], ...]] = (
    half_a_frame,
    unread_answers,
    open_transactions,
    subscriptions,
    memberships,
)


def headwater_key(name: str) -> bytes:
    """The encoded key of a name."""
    return encode_key((name,))


@dataclass(slots=True)
class Report:
    """What was measured: sizes in bytes, waits in seconds.

    Attributes:
        base: memory of the server while all connections were idle.
        budget: what it may take above that.
        peak: its largest memory.
        idle_wait, longest_wait: the longest get of the well-behaved client, before and beside them.
        gets: how many gets that client made beside them.
    """

    base: int
    budget: int
    peak: int
    idle_wait: float
    longest_wait: float
    gets: int


class Watch:
    """A well-behaved client in a thread of its own, and the memory of the server."""

    def __init__(self, url: str, pid: int) -> None:
        self.peak = 0
        self.gets = 0
        self.longest = 0.0
        self._process = psutil.Process(pid)
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._get, self._sample)]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _get(self) -> None:
        with headwater.connect_blocking(self._url) as db:
            db.get("small")
            while not self._over.is_set():
                began = time.perf_counter()
                db.get("small")
                self.longest = max(self.longest, time.perf_counter() - began)
                self.gets += 1
                self._over.wait(0.01)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.peak = max(self.peak, self._process.memory_info().rss)


def fill(url: str) -> None:
    """Write what the connections will ask for."""
    with headwater.connect_blocking(url) as db:
        db.put("large", os.urandom(VALUE_SIZE))
        db.put("small", 1)
        for number in range(GROUPS):
            db.groups.create(f"group {number}", after=0)
    append(url)


def append(url: str) -> None:
    """Append events to many streams."""
    with headwater.connect_blocking(url) as db:
        for begin in range(0, EVENTS, 500):
            with db.transaction() as tx:
                for number in range(begin, begin + 500):
                    tx.append(f"s-{number}", [headwater.Event("T", b"x" * 100)])


@contextlib.contextmanager
def _connections(address: tuple[str, int], count: int) -> Iterator[list[Unkind]]:
    opened: list[Unkind] = []
    try:
        for _ in range(count):
            opened.append(Unkind(address))
        yield opened
    finally:
        for one in opened:
            one.socket.close()


def run(directory: Path, *, count: int, budget_mib: int) -> Report:
    """Measure one server."""
    with ServerProcess(directory, ["--memory-max", str(budget_mib)]) as server:
        host, _, port = server.address.rpartition(":")
        fill(server.url)
        with _connections((host, int(port)), count) as opened:
            with Watch(server.url, server.pid) as idle:
                # The same writes as beside them: what is committed takes memory, too.
                append(server.url)
                time.sleep(SETTLE_S)
            with Watch(server.url, server.pid) as beside:
                for number, one in enumerate(opened):
                    SORTS[number % len(SORTS)](one, number)
                append(server.url)
                time.sleep(SETTLE_S)
        return Report(
            idle.peak, budget_mib * MIB, beside.peak, idle.longest, beside.longest, beside.gets
        )


def main(arguments: list[str]) -> int:
    """Run as a program; return 1 if the server took more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--budget", type=int, default=256, help="MiB")
    given = parser.parse_args(arguments)
    needed = given.connections + DESCRIPTORS_SPARE
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(needed, hard), hard))
    with tempfile.TemporaryDirectory() as directory:
        report = run(Path(directory), count=given.connections - 2, budget_mib=given.budget)
    print(
        f"{given.connections} connections: base {report.base // MIB} MiB, budget "
        f"{report.budget // MIB} MiB, peak {report.peak // MIB} MiB; longest get of {report.gets} "
        f"{report.longest_wait * 1e3:.0f} ms (idle {report.idle_wait * 1e3:.0f} ms)"
    )
    return int(report.peak > report.base + report.budget)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
