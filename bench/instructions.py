"""Instructions that a server executes for each request, counted by callgrind.

    python -m bench.instructions                         the workloads of this checkout
    python -m bench.instructions --base ../before        beside those of another checkout
    python -m bench.instructions --only get,put --rights with users and grants, beside none
    python -m bench.instructions --only put --keep out   callgrind's files, for callgrind_annotate

Other load on the machine does not change the count, so small differences show that `bench.paired`
cannot see. It does not say how long an instruction takes, and leaves the kernel out. Only the
thread of the event loop is counted. All connections send, then all answers are read, so that every
turn serves all of them. The data is in memory if the machine has /dev/shm.

valgrind does not know the instructions that a processor has for SHA-256. So about 5,000 of the
instructions of a commit are of its hash, which takes a fifth of that otherwise.
"""

import argparse
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import scramp
from msgpack import unpackb

from bench import requests, servers
from bench.checkouts import HERE, Checkout
from bench.load import Step
from bench.workloads import WORKLOADS, Workload, fill
from headwater.cli.server_process import ServerProcess

WARM_UP_ROUNDS: Final = 60
"""Rounds before the count. After 32 calls of fsync the server makes them on the event loop."""

WARM_UP_REQUESTS_MAX: Final = 4_000
"""Requests of a round times rounds of the warm-up, at most."""

PASSWORD: Final = "benchmark"  # noqa: S105 - of servers that live for a minute
MECHANISM: Final = "SCRAM-SHA-256"
GRANTS: Final = (
    ["keys", "read", b""],
    ["keys", "write", b""],
    ["streams", "read", {}],
    ["streams", "append", {}],
)
"""What the user with grants may do: all that the workloads do, and no more."""

_FIRST_BODY: Final = 2


class Answers:
    """A connection that sends requests and reads answers."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._received: BinaryIO = self.socket.makefile("rb")

    def close(self) -> None:
        """Close it."""
        self._received.close()
        self.socket.close()

    def read(self) -> bytes:
        """The next answer."""
        return self._received.read(int.from_bytes(self._received.read(4), "big"))

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send a request and return the payload of its answer."""
        self.socket.sendall(requests.frame(1, name, *arguments))
        answer: list[Any] = unpackb(self.read())
        if answer[1] != 0:
            raise SystemExit(f"{name}: {answer}")
        return answer[_FIRST_BODY]

    def greet(self) -> None:
        """Say hello."""
        self.socket.sendall(requests.HELLO.data)
        self.read()

    def log_in(self, user: str) -> None:
        """Authenticate after hello."""
        client = scramp.ScramClient([MECHANISM], user, PASSWORD)
        first = self.ask("authenticate", MECHANISM, client.get_client_first().encode())
        client.set_server_first(first[1].decode())
        self.ask("authenticate", MECHANISM, client.get_client_final().encode())


class Counted:
    """A server under callgrind, with the data of `fill`.

    Args:
        grants: None: there are no users. Otherwise an administrator, and a user with these grants.
    """

    def __init__(
        self, checkout: Checkout, directory: Path, grants: Sequence[list[Any]] | None
    ) -> None:
        self._directory = directory
        self._grants = grants
        self._files = directory / "callgrind"
        library = directory / "slow_clock.so"
        source = Path(__file__).with_name("slow_clock.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        self._environment = {**checkout.environment, "PYTHONHASHSEED": "1"}
        self._slow = {"LD_PRELOAD": str(library)}
        self.port = 0
        self._pid = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Fill the data directory, then run the server on it under callgrind."""
        filled = servers.Headwater(self._directory / "server", environment=self._environment)
        filled.start()
        try:
            fill(filled)
            if self._grants is not None:
                _add_users(filled.port, self._grants)
        finally:
            filled.stop()
        process = _process(filled.process.data.parent, self._files)
        with _environment({**self._environment, **self._slow}):
            process.start()
        try:
            self.port = int(process.address.rpartition(":")[2])
            self._pid = process.pid
            yield
        finally:
            process.stop()

    def count(self, workload: Workload, rounds: int, keep: Path | None) -> float:
        """The instructions for each unit of a workload."""
        make = workload.scripts["headwater"]
        scripts = [make(random.Random(n), n) for n in range(workload.connections)]
        with ExitStack() as stack:
            connections = []
            for _ in scripts:
                connection = Answers(self.port)
                stack.callback(connection.close)
                connection.greet()
                if self._grants is not None:
                    connection.log_in("user")
                connections.append(connection)
            together = workload.connections * workload.depth
            warm_up = min(WARM_UP_ROUNDS, WARM_UP_REQUESTS_MAX // together)
            sources = [script.cycles for script in scripts]
            for number in range(warm_up):
                _round(connections, sources, workload.depth, number)
            self._control("--zero")
            self._control("--instr=on")
            for number in range(warm_up, warm_up + rounds):
                _round(connections, sources, workload.depth, number)
            self._control("--dump")
            self._control("--instr=off")
        # The first thread is that of the event loop.
        (dump,) = self._files.parent.glob(f"{self._files.name}.*-01")
        counted = re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)
        assert counted is not None
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(dump, keep / f"{workload.name}.callgrind")
        for each in self._files.parent.glob(f"{self._files.name}.*"):
            each.unlink()
        return int(counted[1]) / (rounds * together * workload.factor)

    def _control(self, option: str) -> None:
        subprocess.run(
            ["callgrind_control", option, str(self._pid)], check=True, capture_output=True
        )


def _process(directory: Path, files: Path) -> ServerProcess:
    class UnderCallgrind(ServerProcess):
        program = (
            *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"),
            f"--callgrind-out-file={files}",
            *ServerProcess.program,
        )

    return UnderCallgrind(directory)


@contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _add_users(port: int, grants: Sequence[list[Any]]) -> None:
    """Add an administrator, and a user with the grants."""
    salt, stored, server, iterations = scramp.ScramMechanism(MECHANISM).make_auth_info(PASSWORD)
    verifier = (salt, iterations, stored, server)
    # The first user ends all connections without one.
    stranger = Answers(port)
    stranger.greet()
    stranger.ask("user_set", "admin", *verifier)
    stranger.close()
    connection = Answers(port)
    connection.greet()
    connection.log_in("admin")
    connection.ask("user_set", "user", *verifier)
    connection.ask("user_grant", "user", list(grants))
    connection.close()


def _round(
    connections: Sequence[Answers], sources: Sequence[Sequence[Any]], depth: int, number: int
) -> None:
    """Send the next requests of every connection, step by step, and read all answers."""
    for step in range(len(sources[0][0].steps)):
        awaited = 0
        for connection, cycles in zip(connections, sources, strict=True):
            data = b""
            for place in range(number * depth, (number + 1) * depth):
                each = cycles[place % len(cycles)].steps[step]
                data += _marked(each, place)
            awaited = depth * each.answers
            connection.socket.sendall(data)
        for connection in connections:
            for _ in range(awaited):
                answer = connection.read()
                # A conflict is a regular answer of an interactive transaction.
                if answer[2] != 0 and not step:
                    raise SystemExit(f"an error: {answer!r}")


def _marked(step: Step, number: int) -> bytes:
    """The step's bytes, with its marks replaced as load.c does."""
    data = step.data
    for mark, base in (step.marks or {}).items():
        at_time = (time.time_ns() // 1_000_000) << 16 | 0x7000
        value = at_time if base == requests.NOW else base + number
        data = data.replace(mark, value.to_bytes(8, "big"))
    return data


def measure(
    sides: dict[str, tuple[Checkout, Sequence[list[Any]] | None]],
    names: Sequence[str],
    rounds: int,
    keep: Path | None,
) -> None:
    """Count each workload on each side, and print a line for each workload."""
    shared = Path("/dev/shm")  # noqa: S108 - a temporary directory is made in it
    chosen = [each for each in WORKLOADS if each.name in names]
    found: dict[str, dict[str, float]] = {each.name: {} for each in chosen}
    for side, (checkout, grants) in sides.items():
        with tempfile.TemporaryDirectory(
            prefix="headwater-instructions-", dir=shared if shared.is_dir() else None
        ) as directory:
            server = Counted(checkout, Path(directory), grants)
            with server.running():
                for workload in chosen:
                    kept = keep / side if keep else None
                    counted = server.count(workload, max(2, rounds // workload.depth), kept)
                    found[workload.name][side] = counted
                    print(f"{workload.name:<14} {side:<8} {counted:>12,.0f}", flush=True)
    if len(sides) > 1:
        first, *others = sides
        for name, counted_of in found.items():
            for side in others:
                ratio = counted_of[side] / counted_of[first]
                print(f"{name:<14} {side}/{first} {ratio:.3f}")


def main() -> None:
    """Count, and print each figure when it is ready."""
    names = [each.name for each in WORKLOADS if "headwater" in each.scripts]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, help="root of another checkout")
    parser.add_argument("--new", type=Path, default=HERE, help="root; default: this checkout")
    parser.add_argument("--rights", action="store_true", help="compare with users and grants")
    parser.add_argument("--only", default=",".join(names), help="workloads, with commas")
    parser.add_argument("--rounds", type=int, default=48, help="of all connections, one deep")
    parser.add_argument("--keep", type=Path, help="directory for callgrind's files")
    given = parser.parse_args()
    unknown = set(given.only.split(",")) - set(names)
    if unknown:
        parser.error(f"--only: no workload is called {', '.join(sorted(unknown))}")
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed")
    new = Checkout("new", given.new)
    sides: dict[str, tuple[Checkout, Sequence[list[Any]] | None]] = {}
    if given.base is not None:
        sides["base"] = (Checkout("base", given.base), None)
    sides["new"] = (new, None)
    if given.rights:
        sides["admin"] = (new, (["admin"],))
        sides["grants"] = (new, GRANTS)
    for side, (checkout, _) in sides.items():
        if not checkout.is_compiled():
            print(f"{side}: {checkout.root} runs from source")
    measure(sides, given.only.split(","), given.rounds, given.keep)


if __name__ == "__main__":
    main()
