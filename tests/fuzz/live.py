"""Malformed frames against a server process: `python -m tests.fuzz.live --count 100000`.

One connection after another sends malformed frames until one that must end it, sometimes reads
answers, and closes. Meanwhile a valid client writes and reads. The server must survive, answer the
valid client, not grow, and log no internal error.
"""

import argparse
import contextlib
import errno
import random
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import psutil

import headwater
from headwater.cli.server_process import ServerProcess
from headwater_protocol.frames import encode_frame
from headwater_protocol.limits import MIB, PROTOCOL_VERSION
from headwater_server.engine.check.check import check
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore
from tests.fuzz.messages import Frames, encode, outcome_of
from tests.protocol.connections import ready_pair

FRAMES_A_CONNECTION: Final = 40

RESIDENT_GROWTH_MAX: Final = 300 * MIB
"""Bytes by which the server may grow. Commits stay in memory until a checkpoint, and a deeply
nested message takes memory until it is refused."""

CONNECTIONS_A_SEED: Final = 200

ANSWER_S_MAX: Final = 30.0


def frames_of_one(source: random.Random) -> list[bytes]:
    """The frames of one connection. Only the last one ends it."""
    # Without user_set, because the first user would lock out the valid client.
    maker = Frames(source, without=("user_set", "user_remove"))
    connection = ready_pair()[1]
    frames: list[bytes] = []
    while len(frames) < FRAMES_A_CONNECTION:
        frames.append(maker.frame())
        whole = int.from_bytes(frames[-1][:4], "big") == len(frames[-1]) - 4
        if not whole or outcome_of(frames[-1][4:], connection) == "violation":
            break
    return frames


def close_sending(connection: socket.socket) -> None:
    """Close the sending side."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:
        # The server closed first.
        if error.errno != errno.ENOTCONN:
            raise


def attack(url: str, source: random.Random) -> int:
    """Use one connection to send malformed frames, with or without hello. Returns their number."""
    host, _, port = url.removeprefix("headwater://").rpartition(":")
    frames = frames_of_one(source)
    hello = encode_frame(encode([1, "hello", PROTOCOL_VERSION, "fuzz"]))
    with (
        socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX) as connection,
        # The server closes after the last one, or earlier.
        contextlib.suppress(ConnectionError),
    ):
        if source.random() < 0.9:
            connection.sendall(hello)
            connection.recv(65536)
        if source.random() < 0.5:
            connection.sendall(b"".join(frames))
        else:
            for frame in frames:
                connection.sendall(frame)
        if source.random() < 0.5:
            close_sending(connection)
            while connection.recv(65536):
                pass
    return len(frames)


class Target:
    """A server process under attack, and the valid client."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.server = ServerProcess(directory, ["--checkpoint-commits", "500", *options])
        self.server.start()
        self.process = psutil.Process(self.server.pid)
        self.resident_before = self.process.memory_info().rss
        self.slowest_s = 0.0

    def connect(self) -> headwater.BlockingDatabase:
        """A connection of the valid client."""
        return headwater.connect_blocking(self.server.url)

    def answers(self, number: int) -> None:
        """Write and read with the valid client."""
        began = time.monotonic()
        with self.connect() as database:
            database.put(("polite", number), number)
            assert database.get(("polite", number)) == number
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    @property
    def growth(self) -> int:
        """Bytes by which the server's memory has grown."""
        return self.process.memory_info().rss - self.resident_before

    def stop(self) -> None:
        """Stop the server. Its log must have no errors and its files must be sound."""
        self.server.stop()
        said = self.server.log.read_text()
        assert "Traceback" not in said, said[-3000:]
        report = check(
            RealFileSystem(),
            str(self.server.data),
            open_store=partial(RocksStore.open, read_only=True),
        )
        assert report.is_clean, report.findings

    def run(self, seed: int, connections: int) -> int:
        """Run the connections of a seed. Returns the number of frames."""
        source = random.Random(f"live {seed}")
        sent = 0
        for number in range(connections):
            sent += attack(self.server.url, source)
            if number % 50 == 0:
                self.answers(number)
        self.answers(connections)
        self.survives()
        return sent

    def survives(self) -> None:
        """The server still runs, and has not grown by more than it may."""
        assert self.process.is_running()
        assert self.growth < RESIDENT_GROWTH_MAX, f"grown by {self.growth // MIB} MiB"


def main() -> int:
    """Send --count frames to a server, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000, help="frames")
    options = parser.parse_args()
    began = time.monotonic()
    sent = 0
    seed = options.seed
    with tempfile.TemporaryDirectory() as directory:
        target = Target(Path(directory))
        while sent < options.count:
            sent += target.run(seed, CONNECTIONS_A_SEED)
            seed += 1
        growth = target.growth
        target.stop()
    print(
        f"seeds {options.seed} to {seed - 1}: {sent} frames in {time.monotonic() - began:.0f} s; "
        f"the server has grown by {growth // MIB} MiB, and the valid client waited at "
        f"most {target.slowest_s:.2f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
