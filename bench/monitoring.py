"""What monitoring costs: instructions of the server for a put, with and without it.

    python -m bench.monitoring --puts 1000

valgrind counts the instructions of a process that serves N puts, and of one that serves 2N. The
difference, divided by N, is a put. Instructions do not depend on the load of the machine. There is
no socket: the bytes go to a session, and groups are synced at the end of a turn. So the share of
monitoring is larger than with the kernel's part of a request.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import Final

import trio

from headwater_protocol.compiled import in_use
from headwater_protocol.connection import ClientConnection
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_server.net.clocks import wall_clock
from headwater_server.net.monitoring.fsyncs import FsyncDurations
from headwater_server.net.monitoring.recorder import Recorder
from headwater_server.net.process import open_directory
from headwater_server.net.server import Server
from headwater_server.net.session.session import Session, open_session
from headwater_server.net.settings import ServerSettings
from headwater_server.net.threads.adaptive_fsync import FSYNCS_AVERAGED, AdaptiveFsync
from headwater_server.net.threads.worker_thread import run_inline

DEPTHS: Final = (1, 16, 250)
"""Puts that share a group."""

READING_NS: Final = 50_000
"""Nanoseconds between two readings of the clock."""

KEYS: Final = 500
VALUE: Final = bytes(100)

_COLLECTED: Final = re.compile(r"Collected : (\d+)")


async def serve(count: int, depth: int, *, monitored: bool) -> None:
    """Serve puts from memory, with a real data directory."""
    adaptive = AdaptiveFsync(lambda: 0.0)
    for _ in range(FSYNCS_AVERAGED + 1):
        adaptive.timed(lambda: None)
    # valgrind makes everything some fifty times slower, and longer durations take longer to count.
    clock = itertools.count(0, READING_NS).__next__
    fsyncs = FsyncDurations(adaptive, clock)
    with tempfile.TemporaryDirectory() as directory:
        settings = ServerSettings(data=directory)
        engine = open_directory(settings, fsyncs.timed if monitored else adaptive.timed)
        server = Server(
            engine,
            settings,
            clock=wall_clock,
            worker=lambda _name: run_inline,
            turn_clock=time.perf_counter,
            processor_time=time.thread_time,
            adaptive_fsync=adaptive,
            recorder=Recorder(clock) if monitored else None,
        )
        session = open_session(server.service, "bench", lambda: None)
        client = ClientConnection()
        session.receive(client.request("hello", PROTOCOL_VERSION, "bench")[1])
        take(session, client)
        for first in range(0, count, depth):
            for n in range(first, first + depth):
                put = ["put", b"key-%d" % (n % KEYS), VALUE]
                identity = b"\xff" * 6 + os.urandom(10)
                session.receive(client.request("execute", identity, [], [], [put])[1])
            server.service.group_commit.end_turn()
            take(session, client)
        engine.close()


def take(session: Session, client: ClientConnection) -> None:
    """Take the answers, as a driver does."""
    while session.output_size:
        output = bytes(session.output())
        session.sent(len(output))
        client.receive(output)
    session.notified = False


def instructions(count: int, depth: int, *, monitored: bool) -> int:
    """The instructions of a process that serves puts."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    again = ["-m", "bench.monitoring", "--serve", str(count), str(depth), str(int(monitored))]
    command = [*valgrind, sys.executable, *again]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    return int(_COLLECTED.findall(done.stderr)[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puts", type=int, default=1000)
    parser.add_argument("--serve", nargs=3, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        count, depth, monitored = given.serve
        trio.run(lambda: serve(count, depth, monitored=bool(monitored)))
        return
    print(f"{'compiled' if in_use() else 'source'}; instructions for a put")
    for depth in DEPTHS:
        puts = given.puts // depth * depth
        plain, monitored = (
            (instructions(2 * puts, depth, monitored=on) - instructions(puts, depth, monitored=on))
            / puts
            for on in (False, True)
        )
        print(f"{depth:4} in a group: {plain:8,.0f}, with monitoring {monitored:8,.0f}, "
              f"{monitored / plain - 1:+.2%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
