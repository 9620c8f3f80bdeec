"""Worlds of three nodes from a seed, checked by what their clients saw.

    a leader and two followers, of which one must confirm each commit
    writers    put a number into a register and append it to a stream, each in one transaction, and
               send it again with the same id if the answer is lost
    readers    go from node to node, with the newest commit that they have seen
    faults     power loss, cuts, faults of the log (faults.py), full disks, wrong clocks
    changes    the leader is lost or cut off for good, and the follower with the most is promoted;
               the old one comes back with its disk, or with an empty one

What must hold:

- A write that was answered is in the final history at its commit, once. One that was answered
  before another was sent has the lower commit.
- What a reader saw at a commit is what the final history has there, whichever node told it. So
  reads at followers are prefixes. A reader never sees an older commit than before, and at the
  leader it sees every write that was answered before. A leader that was restarted is not read from
  before it has answered a write: it shows what no follower has confirmed.
- At the end all nodes equal the leader, also in the past, and erased data is on no disk.
"""

import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from tests.engine.database import all_events
from tests.engine.replication.test_applier import assert_equal
from tests.replication.nodes import Node, Nodes, cluster
from tests.simulation.determinism import run_deterministically

NAMES: Final = ("a", "b", "c")
STEPS: Final = 25
REGISTERS: Final = 3
WRITERS: Final = 2
READERS: Final = 2
SECRET: Final = b"a secret of thirty-two characters"
GONE: Final = (OSError, HeadwaterError, trio.EndOfChannel, trio.BrokenResourceError, AssertionError)
"""What a client meets when its server dies; the server's farewell is an answer to nothing."""


@dataclass(slots=True)
class Write:
    """A write: when it was sent and answered, and its commit."""

    number: int
    register: bytes
    sent: float
    answered: float | None = None
    commit: int = 0


@dataclass(slots=True)
class Read:
    """What a reader saw of a register at a commit of a node."""

    node: str
    commit: int
    register: bytes
    value: bytes | None


@dataclass
class World:
    """The nodes of a world, and what its clients saw."""

    nodes: Nodes
    seed: int
    leader: str = "a"
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unsettled: set[str] = field(default_factory=set)
    promotions: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(f"world {self.seed}")

    @property
    def node(self) -> Node:
        return self.nodes.by_name[self.leader]

    @property
    def followers(self) -> list[Node]:
        return [each for each in self.nodes.by_name.values() if each.name != self.leader]

    def tell(self, what: str) -> None:
        self.told.append(f"{trio.current_time():.2f} {what}")

    def problem(self, what: str) -> None:
        self.problems.append(what)
        self.tell(f"PROBLEM {what}")

    # Clients.

    async def write(self, writer: int) -> None:
        """Write until cancelled, wherever the leader is."""
        chance = random.Random(f"writer {self.seed} {writer}")
        while True:
            number = len(self.writes) + 1
            register = b"r%d" % chance.randrange(REGISTERS)
            made = Write(number, register, trio.current_time())
            self.writes.append(made)
            transaction = self.node.new_id()
            value = b"%d" % number
            event = [None, "T", value, b""]
            writes: list[Any] = [["put", register, value], ["append", "s", ANY, [event]]]
            if chance.random() < 0.2:
                key = b"short-%d" % number
                ttl_us = chance.randrange(1, 20) * 1_000_000
                writes += [["put", key, value], ["expire", key, ttl_us, None]]
            while made.answered is None:
                await self._send(made, transaction, writes)
                await trio.sleep(chance.uniform(0.0, 0.4))

    async def _send(self, made: Write, transaction: bytes, writes: list[Any]) -> None:
        try:
            client = await self.node.client()
            with trio.move_on_after(15):
                answer = await client.ask("execute", transaction, [], [], writes)
                self.unsettled.discard(self.leader)
                made.commit = answer[0][0]
                made.answered = trio.current_time()
            await client.close()
        except GONE:
            pass

    async def read(self, reader: int) -> None:
        """Read until cancelled, at any node, with the newest commit seen."""
        chance = random.Random(f"reader {self.seed} {reader}")
        seen = 0
        while True:
            await trio.sleep(chance.uniform(0.0, 0.6))
            node = self.nodes.by_name.get(chance.choice(NAMES))
            if node is None or node.server is None or node.name in self.unsettled:
                continue
            leads = node.name == self.leader
            answered = [each.commit for each in self.writes if each.answered is not None]
            register = b"r%d" % chance.randrange(REGISTERS)
            try:
                client = await node.client()
                with trio.move_on_after(15):
                    request = ["get", register, None]
                    commit, _, value = await client.ask("read_at_least", seen, request, 2000)
                    if commit < seen:
                        self.problem(f"reader {reader} saw {commit} at {node.name} after {seen}")
                    if leads and node.name == self.leader and commit < max(answered, default=0):
                        self.problem(
                            f"the leader showed {commit}, and {max(answered)} was answered"
                        )
                    seen = max(seen, commit)
                    self.reads.append(Read(node.name, commit, register, value))
                await client.close()
            except GONE:
                pass

    async def erase(self) -> None:
        """Append something, and erase it."""
        stream = f"secret-{trio.current_time():.3f}"
        for write in (["append", stream, ANY, [[None, "S", SECRET, b""]]], ["erase", stream, [1]]):
            try:
                client = await self.node.client()
                with trio.move_on_after(15):
                    await client.ask("execute", self.node.new_id(), [], [], [write])
                await client.close()
            except GONE:
                return

    # Faults and changes.

    async def restart(self, node: Node) -> None:
        """Lose the power of a node, and start what is left."""
        self.tell(f"crash {node.name}")
        await node.crash()
        node.clock_off_us = self.random.choice((0, 0, -3_600, 30)) * 1_000_000
        await trio.sleep(self.random.uniform(0, 2))
        follows = None if node.name == self.leader else self.leader
        if follows is None:
            self.unsettled.add(node.name)
        await self.nodes.start(node.name, follows=follows)

    async def promote(self) -> None:
        """Lose the leader for good, promote the follower with the most; the old one comes back."""
        if any(each.server is None for each in self.followers):
            return
        # The others may lack what the promoted node has trimmed, and then they copy it.
        self.promotions += 1
        old = self.node
        is_cut_off = self.random.random() < 0.4
        if is_cut_off:
            for each in self.followers:
                await self.nodes.disconnect(each.name, old.name, for_good=True)
        else:
            await old.crash()
        newest = max(self.followers, key=lambda each: each.engine.log_reader.last_index)
        self.tell(f"lose {old.name} ({is_cut_off=}), promote {newest.name}")
        client = await newest.client()
        await client.ask("promote")
        await client.close()
        self.leader = newest.name
        for each in self.followers:
            if each is not old:
                await each.crash()
                await self.nodes.start(each.name, follows=self.leader)
        await self._come_back(old, is_cut_off=is_cut_off)

    async def _come_back(self, old: Node, *, is_cut_off: bool) -> None:
        if not is_cut_off and self.random.random() < 0.5:
            self._replace(old)
        elif is_cut_off or self.random.random() < 0.5:
            # It believes that it leads, until the new leader reaches it.
            if not is_cut_off:
                self.unsettled.add(old.name)
                await self.nodes.start(old.name)
            await trio.sleep(self.random.uniform(0, 3))
            self.nodes.cut.clear()
            try:
                await old.until(lambda: old.figures()["role"] == "deposed")
            except trio.TooSlowError:
                self.problem(f"the old leader {old.name} was not deposed")
            await old.crash()
        self.unsettled.discard(old.name)
        await self.nodes.start(old.name, follows=self.leader)
        await trio.sleep(2)
        found = self.nodes.by_name[old.name].figures()["replication_problem"]
        if found is not None and "commits" in found:
            self.tell(f"{old.name} has commits of its own: {found}")
            await old.crash()
            self._replace(old)
            await self.nodes.start(old.name, follows=self.leader)

    def _replace(self, old: Node) -> None:
        """A machine with an empty disk takes the place of one."""
        del self.nodes.by_name[old.name]

    async def step(self) -> None:
        await trio.sleep(self.random.uniform(0.05, 1.5))
        if any(each.server is None for each in self.nodes.by_name.values()):
            return
        faults = self.nodes.faults
        assert faults is not None
        follower = self.random.choice(self.followers)
        match self.random.randrange(14):
            case 0 | 1:
                await self.restart(follower)
            case 2 | 3:
                await self.restart(self.node)
            case 4:
                self.tell(f"cut {follower.name}")
                await self.nodes.disconnect(follower.name, self.leader)
            case 5:
                self.tell(f"cut {follower.name} for longer")
                await self.nodes.disconnect(follower.name, self.leader, for_good=True)
                await trio.sleep(self.random.uniform(0, 12))
                self.nodes.cut.clear()
            case 6 if self.random.random() < 0.7:
                await self.promote()
            case 7 | 8:
                faults.rate = self.random.choice((0.0, 0.2, 0.5))
                self.tell(f"faults of the log: {faults.rate}")
            case 9:
                self.tell(f"{follower.name} has no room")
                files = follower.files
                files.faults.capacity = files.used
                await trio.sleep(self.random.uniform(0, 5))
                files.faults.capacity = None
            case 10 | 11:
                await self.erase()
            case _:
                pass

    # Checks.

    async def settle(self) -> None:
        """Wait until all nodes have all of the leader."""
        assert self.nodes.faults is not None
        self.nodes.faults.rate = 0.0
        self.nodes.cut.clear()
        newest = self.node.engine.published
        for each in self.followers:
            try:
                await each.reaches(newest)
            except trio.TooSlowError:
                shown = each.engine.published
                self.problem(f"{each.name} did not reach commit {newest} and shows {shown}")
                return
            try:
                assert_equal(self.node.engine, each.engine, every=23)
            except AssertionError as error:
                self.problem(f"{each.name} is not what its leader is: {str(error)[:100]}")
        copied = sum(each.copied for each in self.nodes.by_name.values())
        reopened = sum(each.reopened for each in self.nodes.by_name.values())
        if reopened and not self.promotions:
            self.problem(f"a follower copied the leader again, {copied} times")
        if any(event.data == SECRET for event in self._events()):
            # Its erasure was not answered, and is not there.
            return
        await trio.sleep(60)
        for node in self.nodes.by_name.values():
            for directory in ("data/wal", "data/events"):
                for name in node.files.list(directory):
                    file = node.files.open(f"{directory}/{name}", writable=False)
                    if SECRET in file.read_at(0, file.size()):
                        self.problem(f"erased data is in {directory}/{name} of {node.name}")
                    file.close()

    def check(self) -> None:
        """Compare what clients saw with the final history."""
        engine = self.node.engine
        numbers = [int(event.data or b"") for event in self._events() if event.type == "T"]
        for number in {each for each in numbers if numbers.count(each) > 1}:
            self.problem(f"write {number} is there twice")
        truth: dict[tuple[int, bytes], bytes | None] = {}
        for commit in range(engine.oldest_readable, engine.published + 1):
            reader = engine.reader(commit)
            for number in range(REGISTERS):
                truth[commit, b"r%d" % number] = reader.get(b"r%d" % number)
        for write in self.writes:
            if write.answered is None:
                continue
            found = truth.get((write.commit, write.register))
            if found != b"%d" % write.number:
                self.problem(f"write {write.number} was answered, and is lost: {write} {found!r}")
        for read in self.reads:
            wanted = truth.get((read.commit, read.register), b"nothing")
            if read.value != wanted:
                self.problem(f"{read.node} showed what was never there: {read}, not {wanted!r}")
        answered = sorted(
            (each for each in self.writes if each.answered is not None), key=lambda each: each.sent
        )
        for early in answered:
            for late in answered:
                assert early.answered is not None
                if early.answered < late.sent and early.commit >= late.commit:
                    self.problem(f"not linearizable: {early} and {late}")
        if len(answered) < STEPS // 3:
            self.problem(f"only {len(answered)} writes were answered")

    def _events(self) -> list[Any]:
        return [decode_event(each) for each in all_events(self.node.engine.reader(), 0, EVERYTHING)]


async def _run(seed: int) -> World:
    async with cluster(seed) as nodes:
        nodes.synchronous = 1
        nodes.break_links()
        world = World(nodes, seed)
        await nodes.start("a")
        for name in NAMES[1:]:
            await nodes.start(name, follows="a")
        async with trio.open_nursery() as nursery:
            for writer in range(WRITERS):
                nursery.start_soon(world.write, writer)
            for reader in range(READERS):
                nursery.start_soon(world.read, reader)
            for _ in range(STEPS):
                await world.step()
            world.nodes.cut.clear()
            assert nodes.faults is not None
            nodes.faults.rate = 0.0
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        await world.settle()
        if not world.problems:
            world.check()
        return world


def run_world(seed: int) -> list[str]:
    """Run a world; return its problems, followed by what happened if there are any."""
    told: list[str] = []
    try:
        world = run_deterministically(seed, partial(_run, seed), lambda _entry: None)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return [f"the world ended: {_leaf(error)!r}"]
    told = world.told if world.problems else []
    return [*world.problems, *told]


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
