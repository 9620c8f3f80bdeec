"""Worlds of three nodes on a simulated stream, from a seed, with faults, checked by the answers.

    python -m tests.cluster.worlds --seeds 1000 --first 1

Writers append increasing numbers to streams of their own, wherever the leader is. A write without
an answer is sent again with its id, until there is one. Readers ask for a plain read at every node
that says that it leads, and sessions read at any node.

Faults: crashes with loss of power, pauses, nodes that are cut off from the stream, elections among
the servers of the stream, lost, late and doubled requests, lost answers, lost messages of the
stream and of its end. Checked:

- What was answered is there once, and in its order, on all nodes, which are equal at the end.
- A plain read at a leader shows all that was answered before it began.
- What a session reads never goes back.
- No two nodes hold the lease at once.
- Each entry of a node's copy is that of the stream and of all other nodes.
"""

import argparse
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import structlog
import trio
from trio.testing import MockClock

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.testing.memory_jetstream import Fate
from tests.cluster.nodes import ClusterNode, MemoryCluster, memory_cluster
from tests.engine.database import all_events

WORLD_S: Final = 60.0
QUIET_S_MAX: Final = 900.0
WRITERS: Final = 3
LOST: Final = (HeadwaterError, OSError, trio.EndOfChannel, trio.BrokenResourceError)


class Violated(Exception):
    """Something that must hold did not."""


@dataclass
class World:
    """What happened."""

    cluster: MemoryCluster
    random: random.Random
    answered: dict[int, list[int]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    leases: int = 0
    reads: int = 0
    rate: float = 0.0
    over: bool = False

    def tell(self, what: str) -> None:
        self.told.append(f"{trio.current_time():.2f} {what}")

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violated(what)

    # Clients.

    async def write(self, writer: int) -> None:
        mine = self.answered[writer] = []
        number = 0
        while not self.over:
            number += 1
            identity = self.cluster.nodes["a"].new_id()
            event = [None, "T", b"%d" % number, b""]
            await self._until_answered(
                ["execute", identity, [], [], [["append", f"w{writer}", ANY, [event]]]]
            )
            mine.append(number)
            await trio.sleep(self.random.uniform(0.0, 0.3))

    async def _until_answered(self, request: list[Any]) -> Any:
        while True:
            for node in self.cluster.leaders or [self._any()]:
                with suppress(*LOST), trio.move_on_after(20):
                    client = await node.client()
                    try:
                        return await client.ask(*request)
                    finally:
                        with trio.CancelScope(shield=True):
                            await client.close()
            await trio.sleep(0.1)

    def _any(self) -> ClusterNode:
        return self.random.choice(list(self.cluster.nodes.values()))

    async def read_at_leaders(self) -> None:
        """Ask for plain reads at all that say that they lead."""
        while not self.over:
            await trio.sleep(self.random.uniform(0.0, 0.2))
            for node in self.cluster.leaders:
                writer = self.random.randrange(WRITERS)
                wanted = len(self.answered[writer])
                with suppress(*LOST), trio.move_on_after(5):
                    client = await node.client()
                    try:
                        found = (await client.ask("stream_version", None, f"w{writer}"))[1]
                    finally:
                        with trio.CancelScope(shield=True):
                            await client.close()
                    self.reads += 1
                    self.check(
                        found >= wanted,
                        f"a read at the leader {node.name} shows {found} of {wanted} events",
                    )

    async def read_in_session(self) -> None:
        """Read at any node, with the commit seen so far."""
        seen, newest = 0, 0
        while not self.over:
            await trio.sleep(self.random.uniform(0.0, 0.5))
            node = self._any()
            with suppress(*LOST), trio.move_on_after(5):
                client = await node.client()
                try:
                    request = ["stream_version", "w0", None]
                    commit, _, (_, found) = await client.ask("read_at_least", seen, request, 1000)
                finally:
                    with trio.CancelScope(shield=True):
                        await client.close()
                self.check(found >= newest, f"a session went back from {newest} to {found} events")
                seen, newest = commit, found

    async def watch_leases(self) -> None:
        while not self.over:
            await trio.sleep(0.05)
            holders = [each.name for each in self.cluster.leaders if each.log.has_lease]
            self.leases += len(holders)
            self.check(len(holders) <= 1, f"{' and '.join(holders)} hold the lease at once")

    # Faults.

    def fate(self, _subject: str) -> Fate:
        """What becomes of a request in bad times."""
        return self.random.choice(list(Fate)) if self.random.random() < self.rate else Fate.ANSWERED

    async def break_things(self) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [
            self.crash,
            self.crash,
            self.pause,
            self.cut,
            self.cut_answers,
            self.elect,
            self.bad_times,
            self.lose_messages,
            self.lose_tail,
        ]
        while not self.over:
            await trio.sleep(self.random.uniform(0.5, 6.0))
            await self.random.choice(faults)()

    def _victim(self) -> ClusterNode:
        leaders = self.cluster.leaders
        return (
            self.random.choice(leaders) if leaders and self.random.random() < 0.6 else self._any()
        )

    async def crash(self) -> None:
        node = self._victim()
        self.tell(f"crash {node.name}")
        await node.crash()
        await trio.sleep(self.random.uniform(0.0, 6.0))
        self.cluster.start(node.name)

    async def pause(self) -> None:
        node = self._victim()
        self.tell(f"pause {node.name}")
        node.pause()
        await trio.sleep(self.random.uniform(0.5, 7.0))
        node.go_on()

    async def cut(self) -> None:
        await self._cut(Fate.LOST)

    async def cut_answers(self) -> None:
        await self._cut(Fate.ANSWER_LOST)

    async def _cut(self, fate: Fate) -> None:
        node = self._victim()
        self.tell(f"cut {node.name}: {fate.value}")
        node.deliver = lambda _: fate
        await trio.sleep(self.random.uniform(0.5, 7.0))
        node.deliver = lambda _: Fate.ANSWERED

    async def elect(self) -> None:
        self.tell("the stream has no leader")
        self.cluster.stream.deliver = lambda _: Fate.NO_LEADER
        await trio.sleep(self.random.uniform(1.0, 9.0))
        self.cluster.stream.deliver = lambda _: Fate.ANSWERED

    async def bad_times(self) -> None:
        self.rate = self.random.uniform(0.05, 0.5)
        self.tell(f"requests are lost: {self.rate:.2f}")
        stream = self.cluster.stream
        stream.deliver = self.fate
        stream.remembers = self.random.random() < 0.5
        stream.behind = self.random.choice((0, 0, 1, 5))
        for _ in range(self.random.randrange(5, 40)):
            await trio.sleep(self.random.uniform(0.0, 0.4))
            stream.land(self.random)
        stream.deliver = lambda _: Fate.ANSWERED
        stream.behind = 0

    def _kept_by_all(self) -> int:
        """The newest entry that all nodes have, also those that are down."""
        running = [each for each in self.cluster.nodes.values() if each.server is not None]
        if len(running) < len(self.cluster.nodes):
            return 0
        return min(int(each.log.last_index) for each in running)

    async def lose_messages(self) -> None:
        """Lose messages in the middle that one node does not have yet."""
        stream, leaders = self.cluster.stream, self.cluster.leaders
        followers = [each for each in self.cluster.nodes.values() if each not in leaders]
        if not leaders or not followers:
            return
        behind = self.random.choice(followers)
        after = stream.last
        await behind.crash()
        await trio.sleep(self.random.uniform(1.0, 3.0))
        stored = max((int(each.log.last_index) for each in self.cluster.leaders), default=0)
        lost = [sequence for sequence in sorted(stream.messages) if after < sequence < stored]
        lost = lost[self.random.randint(0, 3) :][: self.random.randint(1, 10)]
        self.tell(f"{behind.name} is down, and the stream loses {lost}")
        for sequence in lost:
            stream.lose(sequence)
        self.cluster.start(behind.name)

    async def lose_tail(self) -> None:
        """Lose the newest messages, while every node has them and runs."""
        stream = self.cluster.stream
        if self._kept_by_all() == stream.last and len(stream.messages) > 10:
            last = stream.last - self.random.randint(1, 5)
            self.tell(f"the stream forgets what comes after {last}")
            stream.forget_tail(last)

    # The end.

    async def calm(self) -> None:
        """All faults end, and everything that was sent arrives."""
        self.tell("calm")
        self.cluster.stream.deliver = lambda _: Fate.ANSWERED
        self.cluster.stream.behind = 0
        for node in self.cluster.nodes.values():
            node.deliver = lambda _: Fate.ANSWERED
            node.go_on()
        self.cluster.stream.land()

    async def judge(self) -> None:
        leader = await self.cluster.leader()
        await self._until_answered(
            ["execute", leader.new_id(), [], [], [["append", "end", ANY, [[None, "T", b"", b""]]]]]
        )
        commit = (await self.cluster.leader()).engine.published
        await self.cluster.until(
            lambda: all(self.cluster.shows(name, commit) for name in self.cluster.nodes)
        )
        for name, node in self.cluster.nodes.items():
            self.check(node.engine.published == commit, f"{name} has another commit at the end")
            for writer, answered in self.answered.items():
                found = self._numbers(node, f"w{writer}")
                self.check(
                    found[: len(answered)] == answered and len(found) <= len(answered) + 1,
                    f"{name} has {len(found)} events of writer {writer}, of which "
                    f"{len(answered)} were answered: {found[-5:]}",
                )
        self._compare_logs()

    def _numbers(self, node: ClusterNode, stream: str) -> list[int]:
        engine = node.engine
        events = map(decode_event, all_events(engine.reader(), 0, EVERYTHING))
        return [int(event.data or b"") for event in events if event.stream == stream]

    def _compare_logs(self) -> None:
        logs = [node.log for node in self.cluster.nodes.values()]
        first = max(int(log.first_index) for log in logs)
        hashes: list[list[Any]] = []
        last = min(int(log.last_index) for log in logs)
        for log in logs:
            entries = log.read(first - 1)  # type: ignore[arg-type]
            hashes.append([entry.previous_hash for entry in entries if entry.index <= last])
        self.check(hashes[0] == hashes[1] == hashes[2], "the copies of the log differ")


async def live(seed: int, *, world_s: float = WORLD_S) -> World:
    """Live through a world; raise what did not hold."""
    random.seed(seed)
    async with memory_cluster(seed) as cluster:
        world = World(cluster, random.Random(f"world {seed}"))
        with trio.fail_after(world_s + QUIET_S_MAX):
            await cluster.leader()
            async with trio.open_nursery() as nursery:
                for writer in range(WRITERS):
                    world.answered[writer] = []
                    nursery.start_soon(world.write, writer)
                nursery.start_soon(world.read_at_leaders)
                nursery.start_soon(world.read_in_session)
                nursery.start_soon(world.watch_leases)
                with trio.move_on_after(world_s):
                    await world.break_things()
                for name, node in cluster.nodes.items():
                    if node.down:
                        cluster.start(name)
                await world.calm()
                await trio.sleep(15)
                world.over = True
            await world.judge()
    return world


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


def problem_of(seed: int, *, world_s: float = WORLD_S) -> tuple[int, str | None, int]:
    """What did not hold in a world, or None; and how many writes were answered."""
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    try:
        world = trio.run(
            partial(live, seed, world_s=world_s), clock=MockClock(autojump_threshold=0)
        )
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return seed, f"{type(error).__name__}: {error}", 0
    return seed, None, sum(map(len, world.answered.values()))


def main() -> int:
    """Live through many worlds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=WORLD_S, help="of a world, simulated")
    given = parser.parse_args()
    began, answered, failed = time.monotonic(), 0, 0
    seeds = range(given.first, given.first + given.seeds)
    with get_context("spawn").Pool(given.processes) as pool:
        live_through = partial(problem_of, world_s=given.seconds)
        for seed, problem, count in pool.imap_unordered(live_through, seeds):
            answered += count
            if problem is not None:
                failed += 1
                print(f"seed {seed}: {problem}", flush=True)
    seconds = time.monotonic() - began
    print(f"{given.seeds} worlds, {answered} answered writes, {failed} failed, {seconds:.0f} s")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
