"""Three NATS servers and three nodes as real processes, under load, with faults at random.

    python -m tests.cluster.torture --seconds 3600 --seed 1

Writers append increasing numbers, each to a stream of its own, with the id of the event. So a write
whose answer was lost is sent again and counts once. Nodes and NATS servers are killed (SIGKILL) and
stopped for up to seven seconds (SIGSTOP), leaders more often than others. At the end all nodes run
again, and must show the same: everything that was answered, once, in its order.

The time from the death of a leader to the next answered write is reported as a distribution.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import headwater
from headwater.cli.server_process import ServerProcess
from tests.cluster.nats_servers import NatsServers, free_ports
from tests.sound_files import check_files

NAMES: Final = ("a", "b", "c")
WRITERS: Final = 4
SETTINGS: Final = ("--checkpoint-commits", "500", "--log-level", "info")
EQUAL_S_MAX: Final = 120.0
LOOK_S: Final = 0.05


@dataclass
class Answers:
    """What was answered, and when."""

    numbers: dict[int, int] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, writer: int, number: int) -> None:
        with self.lock:
            self.numbers[writer] = number
            self.times.append(time.monotonic())

    def next_after(self, moment: float) -> float | None:
        """Seconds from a moment to the next answer."""
        with self.lock:
            later = [answered for answered in self.times[-5000:] if answered > moment]
        return min(later) - moment if later else None


class RealCluster:
    """The processes."""

    def __init__(self, directory: Path, nats: NatsServers | None = None) -> None:
        """*nats* are servers that run; None: three of its own."""
        self._owns_nats = nats is None
        if nats is None:
            nats = NatsServers(directory / "nats", 3)
            nats.start()
        self.nats = nats
        hosts = ",".join(url.removeprefix("nats://") for url in nats.urls)
        stream = f"torture-{random.randrange(2**32)}" if not self._owns_nats else "torture"
        log = ("--log", f"nats://{hosts}/{stream}", "--log-replicas", str(nats.replicas))
        self.nodes: dict[str, ServerProcess] = {}
        for name, port in zip(NAMES, free_ports(3), strict=True):
            (directory / name).mkdir()
            node = ServerProcess(directory / name, (*SETTINGS, *log))
            node.address = f"127.0.0.1:{port}"
            self.nodes[name] = node
        self.running: set[str] = set()
        for name in NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        self.nodes[name].start()
        self.running.add(name)

    def kill(self, name: str) -> None:
        self.running.discard(name)
        self.nodes[name].kill()

    def node_of(self, name: str) -> Any:
        """What a node says of itself; None if it does not answer."""
        try:
            with headwater.connect_blocking(
                self.nodes[name].url, connect_timeout=1, request_timeout=1, retry_timeout=0.05
            ) as db:
                return db.node()
        except (headwater.HeadwaterError, OSError):
            return None

    def leader(self) -> str | None:
        for name in sorted(self.running):
            node = self.node_of(name)
            if node is not None and node.role == "leader":
                return name
        return None

    def stop(self) -> None:
        for node in self.nodes.values():
            with contextlib.suppress(Exception):
                node.kill()
        if self._owns_nats:
            self.nats.stop()


class Torture:
    """One run."""

    def __init__(self, cluster: RealCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.answers = Answers()
        self.take_overs: list[float] = []
        self.faults: dict[str, int] = {}
        self.over = threading.Event()
        self._connections: dict[tuple[str, int], Any] = {}

    def write(self, writer: int) -> None:
        """Append numbers wherever the leader is."""
        number, at = 0, None
        while not self.over.is_set():
            number += 1
            event = headwater.Event(
                "Written", {"number": number}, id=UUID(int=(writer << 64) | number)
            )
            while True:
                at = at or self.cluster.leader()
                if at is not None and self._append(at, writer, event):
                    self.answers.note(writer, number)
                    break
                at = None
                self.over.wait(LOOK_S)
                if self.over.is_set():
                    return

    def _append(self, at: str, writer: int, event: headwater.Event) -> bool:
        connection = self._connections.get((at, writer))
        try:
            if connection is None:
                connection = headwater.connect_blocking(
                    self.cluster.nodes[at].url,
                    connect_timeout=1,
                    request_timeout=3,
                    retry_timeout=0.05,
                ).__enter__()
                self._connections[at, writer] = connection
            connection.append(f"w{writer}", event)
        except (headwater.HeadwaterError, OSError):
            self._connections.pop((at, writer), None)
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()
            return False
        return True

    def wait(self, seconds: float) -> None:
        self.over.wait(seconds)

    def fault(self) -> None:
        kind = self.random.choice(
            ["kill leader", "kill node", "pause leader", "pause leader", "kill nats", "pause nats"]
        )
        self.faults[kind] = self.faults.get(kind, 0) + 1
        match kind:
            case "kill leader" | "kill node":
                leader = self.cluster.leader()
                name = leader if kind == "kill leader" and leader else self.random.choice(NAMES)
                self.cluster.kill(name)
                if name == leader:
                    self.measure(time.monotonic())
                self.wait(self.random.uniform(0, 4))
                self.cluster.start(name)
            case "pause leader":
                name = self.cluster.leader() or self.random.choice(NAMES)
                pid = self.cluster.nodes[name].pid
                os.kill(pid, signal.SIGSTOP)
                self.wait(self.random.uniform(0.5, 7))
                os.kill(pid, signal.SIGCONT)
            case "kill nats":
                server = self.random.choice(self.cluster.nats.servers)
                server.kill()
                self.wait(self.random.uniform(0.5, 8))
                server.start()
                self.wait(3)
            case "pause nats":
                server = self.random.choice(self.cluster.nats.servers)
                server.pause()
                self.wait(self.random.uniform(0.5, 8))
                server.resume()
                self.wait(2)

    def measure(self, died: float) -> None:
        """Wait for the next answer after the death of a leader."""
        until = died + 60
        while time.monotonic() < until:
            took = self.answers.next_after(died + 0.01)
            if took is not None:
                self.take_overs.append(took)
                return
            self.wait(LOOK_S)
        self.take_overs.append(60.0)

    def run(self, seconds: float) -> None:
        threads = [threading.Thread(target=self.write, args=(each,)) for each in range(WRITERS)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.fault()
            self.wait(self.random.uniform(1, 4))
        self.wait(5)
        self.over.set()
        for thread in threads:
            thread.join()

    def judge(self) -> list[str]:
        """What did not hold."""
        problems: list[str] = []
        self.cluster.nats.wait_until_ready()
        until = time.monotonic() + EQUAL_S_MAX
        while True:
            nodes = [self.cluster.node_of(name) for name in NAMES]
            commits = {None if node is None else node.commit for node in nodes}
            if len(commits) == 1 and None not in commits:
                break
            if time.monotonic() > until:
                return [f"the nodes are not equal: {nodes}"]
            time.sleep(LOOK_S)  # other processes catch up, and tell nobody
        contents = [self.contents(name) for name in NAMES]
        if not contents[0] == contents[1] == contents[2]:
            problems.append("the nodes show different events")
        for writer, answered in self.answers.numbers.items():
            found = [number for stream, number in contents[0] if stream == f"w{writer}"]
            in_order = found == list(range(1, len(found) + 1))
            if not in_order or not answered <= len(found) <= answered + 1:
                problems.append(f"writer {writer}: {answered} answered, {len(found)} found")
        return problems

    def contents(self, name: str) -> list[tuple[str, int]]:
        with headwater.connect_blocking(self.cluster.nodes[name].url) as db:
            return [(event.stream, event.data["number"]) for event in db.read_all()]


@contextlib.contextmanager
def real_cluster(directory: Path, nats: NatsServers | None = None) -> Iterator[RealCluster]:
    cluster = RealCluster(directory, nats)
    try:
        yield cluster
    finally:
        cluster.stop()


def shown(values: list[float]) -> str:
    """A distribution in words."""
    if not values:
        return "none"
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return (
        f"{len(ordered)}: median {statistics.median(ordered):.2f} s, 95 % below {high:.2f} s, "
        f"longest {ordered[-1]:.2f} s"
    )


def main() -> int:
    """Torture a cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--directory", type=Path, default=None)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        with real_cluster(directory) as cluster:
            torture = Torture(cluster, given.seed)
            torture.run(given.seconds)
            problems = torture.judge()
            for node in cluster.nodes.values():
                node.stop()
            for node in cluster.nodes.values():
                check_files(node)
    answered = sum(torture.answers.numbers.values())
    print(f"faults: {torture.faults}")
    print(f"answered writes: {answered}")
    print(f"from a leader's death to the next answered write: {shown(torture.take_overs)}")
    print("problems: " + ("; ".join(problems) or "none"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
