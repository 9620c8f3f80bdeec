"""Failpoints: named points at which a server is killed.

A round starts a server that will kill itself at a failpoint, loads it until it is dead, restarts it
normally, and compares its data with the ledger of tests/test_kill.py.
"""

import json
import os
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal, NamedTuple

import trio

import headwater
from headwater.cli.server_process import ServerFailed, ServerProcess
from tests.sound_files import check_files
from tests.test_kill import Ledger, settle_and_check, work

CHECKPOINT_COMMITS: Final = 40
COMMITS_MAX: Final = 1_000
"""Commits after which a round gives up if the failpoint was not reached."""

CLIENTS: Final = 2
WORKERS_A_CLIENT: Final = 3

When = Literal["before", "half", "after"]


class Failpoint(NamedTuple):
    """A call of an operation on a path that contains a text, counted from the server's start.

    Attributes:
        number_max: the largest number of the call; the number is drawn.
        in_replay: whether it is reached in a start that replays the log.
    """

    name: str
    operation: str
    path: str
    when: When
    number_max: int
    in_replay: bool = False


WAL: Final = "/wal/"
EVENTS: Final = ".events"
OFFSETS: Final = ".idx"
COMMITS: Final = ".commits"

FAILPOINTS: Final = (
    Failpoint("a group, half written", "write", WAL, "half", 60),
    Failpoint("a group, written and not synced", "write", WAL, "after", 60),
    Failpoint("a group, synced and not answered", "sync", WAL, "after", 60),
    Failpoint("a segment of the log, before it is made", "create", WAL, "before", 1),
    Failpoint("a segment of the log, made and empty", "create", WAL, "after", 1),
    Failpoint("a segment of the log, before it has its name", "rename", WAL, "before", 1),
    Failpoint("a segment of the log, with a name that is not durable", "rename", WAL, "after", 1),
    Failpoint("a checkpoint, half of the events written", "write", EVENTS, "half", 2),
    Failpoint("a checkpoint, events and no offsets", "write", OFFSETS, "before", 2),
    Failpoint("a checkpoint, events not synced", "sync", EVENTS, "before", 2),
    Failpoint("a checkpoint, events synced", "sync", EVENTS, "after", 2),
    Failpoint("a checkpoint, half of the commits written", "write", COMMITS, "half", 2),
    Failpoint("a checkpoint, commits synced", "sync", COMMITS, "after", 2),
    Failpoint("a checkpoint, before the state is written", "store write", "state", "before", 2),
    Failpoint("a checkpoint, state written and not flushed", "store flush", "state", "before", 2),
    Failpoint("a checkpoint, state flushed", "store flush", "state", "after", 2),
    Failpoint("a replay, at a read of the log", "read", WAL, "after", 6, in_replay=True),
    Failpoint("a replay, at a write to the log", "write", WAL, "half", 2, in_replay=True),
    Failpoint("a replay, after a sync of the log", "sync", WAL, "after", 2, in_replay=True),
    Failpoint("a start, at a sync of the directory", "sync_directory", "", "after", 2, True),
)


class FaultyServer(ServerProcess):
    """A server process whose disk has faults on demand."""

    program = (sys.executable, "-m", "tests.torture.faulty_server")

    def start_with(self, **faults: object) -> float:
        """Start with these faults, until the server ends."""
        os.environ["FAULTS"] = json.dumps(faults)
        try:
            return self.start()
        finally:
            del os.environ["FAULTS"]

    def reap(self) -> None:
        """Make sure that the process is dead."""
        if self._child is not None:
            self.kill()


def make_server(directory: Path) -> FaultyServer:
    """A server with frequent checkpoints."""
    return FaultyServer(directory, ["--checkpoint-commits", str(CHECKPOINT_COMMITS)])


async def load_until_dead(server: FaultyServer, ledger: Ledger, commits: int) -> bool:
    """Run clients until the server dies; False if *commits* commits came first."""
    enough = trio.Event()
    survived = False
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(headwater.connect(server.url, retry_timeout=0))
            for _ in range(CLIENTS)
        ]

        async def give_up() -> None:
            nonlocal survived
            await enough.wait()
            survived = True
            server.kill()

        async with trio.open_nursery() as outer:
            outer.start_soon(give_up)
            async with trio.open_nursery() as workers:
                for database in connections * WORKERS_A_CLIENT:
                    count = len(ledger.acknowledged) + commits
                    workers.start_soon(work, database, ledger, enough, count)
            outer.cancel_scope.cancel()
    return not survived


def run_round(server: FaultyServer, ledger: Ledger, failpoint: Failpoint) -> bool:
    """Kill the server at a failpoint and check its data. Returns whether it was reached."""
    number = ledger.random.randint(1, failpoint.number_max)
    kill = {
        "operation": failpoint.operation,
        "path": failpoint.path,
        "number": number,
        "when": failpoint.when,
    }
    if failpoint.in_replay:
        server.start_with()
        trio.run(load_until_dead, server, ledger, ledger.random.randint(1, COMMITS_MAX))
        server.reap()
    met = _start_to_be_killed(server, kill)
    if not met:
        try:
            met = trio.run(load_until_dead, server, ledger, COMMITS_MAX)
        except headwater.HeadwaterError:
            # It died while the clients connected.
            met = True
    server.reap()
    check_files(server)
    server.start_with()
    trio.run(settle_and_check, server, ledger)
    server.kill()
    return met


def _start_to_be_killed(server: FaultyServer, kill: dict[str, object]) -> bool:
    try:
        server.start_with(kill=kill)
    except ServerFailed:
        return True
    return False


def new_ledger(seed: int) -> Ledger:
    """An empty ledger with a random source from a seed."""
    return Ledger(random.Random(seed))
