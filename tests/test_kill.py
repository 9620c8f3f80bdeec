"""A real server is killed with SIGKILL at random moments under load, and restarted.

A ledger outside the server records the answers to the clients. After each restart, all new commits
are read and compared with it:

    acknowledged  must exist completely, with the acknowledged commit number
    unknown       is resolved by a status request: committed completely, or aborted for ever
    lost          (the connection ended before the commit was sent) must not exist

Each transaction appends to two streams and adds to a counter for each. Every third one also reads a
key and writes a value that depends on it. So a partial commit would cause a wrong stream, position
or counter.

HEADWATER_KILL_ROUNDS and HEADWATER_KILL_SEED set the rounds and the seed.
"""

import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess
from tests.sound_files import check_files

ROUNDS: Final = int(os.environ.get("HEADWATER_KILL_ROUNDS", "30"))
CLIENTS: Final = 4
WORKERS_A_CLIENT: Final = 4
STREAMS: Final = tuple(f"account-{number}" for number in range(8))
COMMITS_A_ROUND_MAX: Final = 250
CHECKPOINT_COMMITS: Final = 60
DELAY_S_MAX: Final = 0.01


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned transaction: the number of events for each of two streams."""

    number: int
    appends: dict[str, int]
    reads: bool


@dataclass(slots=True)
class Ledger:
    """The answers to the clients, and the commits that were read so far."""

    random: random.Random
    plans: dict[int, Plan] = field(default_factory=dict)
    ids: dict[int, UUID] = field(default_factory=dict)
    acknowledged: dict[int, int] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)

    position: int = 0
    commit_of: dict[int, int] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)

    def plan(self) -> Plan:
        number = len(self.plans) + 1
        streams = self.random.sample(STREAMS, 2)
        appends = {stream: self.random.randint(1, 3) for stream in streams}
        self.plans[number] = Plan(number, appends, reads=number % 3 == 0)
        return self.plans[number]


# Under load.


async def work(
    db: headwater.Database, ledger: Ledger, acknowledged: trio.Event, count: int
) -> None:
    """Commit transactions one after the other, until the server is killed."""
    while True:
        plan = ledger.plan()
        transaction = db.transaction()
        try:
            async with transaction as tx:
                ledger.ids[plan.number] = tx.id
                await write(tx, plan)
            assert tx.committed is not None
            ledger.acknowledged[plan.number] = tx.committed.commit
            if len(ledger.acknowledged) >= count:
                acknowledged.set()
        except headwater.Conflict:
            ledger.lost.add(plan.number)
        except headwater.CommitUnknown:
            ledger.unknown.add(plan.number)
            return
        except headwater.ConnectionLost:
            ledger.lost.add(plan.number)
            return


async def write(tx: headwater.Transaction, plan: Plan) -> None:
    for stream, count in plan.appends.items():
        if plan.reads:
            seen = await tx.get(("seen", stream), default=0)
            tx.put(("seen", stream), seen + 1)
        tx.append(stream, [headwater.Event("Moved", plan.number) for _ in range(count)])
        tx.add(("events", stream), count)


async def load_and_kill(server: ServerProcess, ledger: Ledger) -> None:
    """Run several clients, and kill the server meanwhile."""
    acknowledged = trio.Event()
    count = len(ledger.acknowledged) + ledger.random.randint(1, COMMITS_A_ROUND_MAX)
    async with AsyncExitStack() as stack:
        connections = [
            # Without retries, so that unknown commits stay unknown until the restart.
            await stack.enter_async_context(headwater.connect(server.url, retry_timeout=0))
            for _ in range(CLIENTS)
        ]
        async with trio.open_nursery() as nursery:
            for db in connections * WORKERS_A_CLIENT:
                nursery.start_soon(work, db, ledger, acknowledged, count)
            await acknowledged.wait()
            # Kill at any moment, not only right after an answer.
            await trio.sleep(ledger.random.uniform(0, DELAY_S_MAX))
            server.kill()


# After the restart.


async def settle_and_check(server: ServerProcess, ledger: Ledger) -> None:
    async with headwater.connect(server.url) as db:
        await settle(db, ledger)
        await check_new_events(db, ledger)
        await check_counters(db, ledger)
    check_ledger(ledger)


async def settle(db: headwater.Database, ledger: Ledger) -> None:
    """Resolve all unknown outcomes."""
    for number in sorted(ledger.unknown):
        status = await db.status(ledger.ids[number], resolve=True)
        if status.committed is not None:
            ledger.acknowledged[number] = status.committed.commit
        else:
            assert status.state == "aborted", f"transaction {number} is {status.state}"
            ledger.lost.add(number)
    ledger.unknown.clear()


async def check_new_events(db: headwater.Database, ledger: Ledger) -> None:
    """Check that positions and versions have no gap, and that no transaction is partial."""
    found: dict[int, Counter[str]] = {}
    async for event in db.read_all(after=ledger.position):
        ledger.position += 1
        assert event.position == ledger.position, "a gap in the positions"
        ledger.versions[event.stream] += 1
        assert event.version == ledger.versions[event.stream], f"a gap in {event.stream}"
        found.setdefault(event.data, Counter())[event.stream] += 1
        assert ledger.commit_of.setdefault(event.data, event.commit) == event.commit
    for number, streams in found.items():
        assert streams == ledger.plans[number].appends, f"half of transaction {number}"


async def check_counters(db: headwater.Database, ledger: Ledger) -> None:
    """Check that each counter equals the number of events in its stream."""
    async for key, value in db.scan(("events",)):
        assert value == ledger.versions[str(key[1])], f"{key} is {value}"
    seen = Counter(
        stream
        for number in ledger.acknowledged
        if ledger.plans[number].reads
        for stream in ledger.plans[number].appends
    )
    async for key, value in db.scan(("seen",)):
        assert value == seen[str(key[1])], f"{key} is {value}"


def check_ledger(ledger: Ledger) -> None:
    """Check that exactly the acknowledged commits exist, with numbers without a gap."""
    assert ledger.commit_of == ledger.acknowledged
    assert sorted(ledger.commit_of.values()) == list(range(1, len(ledger.commit_of) + 1))
    assert not ledger.lost & ledger.commit_of.keys()


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * ROUNDS)
def test_kill_9_under_load_loses_no_commit_and_leaves_no_partial_one(tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADWATER_KILL_SEED", time.time_ns() % 2**32))
    print(f"\nHEADWATER_KILL_SEED={seed} HEADWATER_KILL_ROUNDS={ROUNDS}")
    ledger = Ledger(random.Random(seed))
    # Checkpoints are frequent, so that some kills interrupt them.
    server = ServerProcess(tmp_path, ["--checkpoint-commits", str(CHECKPOINT_COMMITS)])
    server.start()
    for number in range(1, ROUNDS + 1):
        trio.run(load_and_kill, server, ledger)
        if number == ROUNDS:
            # Check the files before a start repairs anything.
            check_files(server)
        restart_s = server.start()
        trio.run(settle_and_check, server, ledger)
        print(f"round {number}: {len(ledger.commit_of)} commits, restart {restart_s:.2f} s")
    server.stop()
    # Check everything again from the first event, after a clean stop.
    server.start()
    everything = Ledger(ledger.random, ledger.plans, ledger.ids, ledger.acknowledged)
    trio.run(settle_and_check, server, everything)
    server.stop()
    check_files(server)
