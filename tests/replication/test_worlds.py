"""Worlds of three nodes with crashes, cuts and promotions, from a seed, checked by the answers.

Each world has a leader and two followers, of which one must confirm each commit. A client writes
events with increasing numbers, one after another. At random moments a node loses its power, a
connection is cut, or the leader is lost and the follower with the newest log is promoted. Checked:

- Nothing that was answered is missing, and nothing is there twice.
- What a follower shows is a prefix of what the leader has, at each look.
- At the end, all nodes that follow equal the leader at every commit.

HEADWATER_REPLICATION_SEEDS sets how many worlds there are, HEADWATER_REPLICATION_SEED the first.
"""

import os
import random
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from tests.engine.database import all_events
from tests.engine.replication.test_applier import assert_equal
from tests.replication.nodes import Node, Nodes, cluster

SEEDS: Final = int(os.environ.get("HEADWATER_REPLICATION_SEEDS", "8"))
FIRST: Final = int(os.environ.get("HEADWATER_REPLICATION_SEED", "1"))
NAMES: Final = ("a", "b", "c")
STEPS: Final = 30


class World:
    """The nodes of a world, and what was answered to its client."""

    def __init__(self, nodes: Nodes, seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(f"world {seed}")
        self.leader = "a"
        self.answered: list[int] = []
        self.sent = 0
        self.told: list[str] = []

    @property
    def node(self) -> Node:
        return self.nodes.by_name[self.leader]

    @property
    def followers(self) -> list[Node]:
        return [each for each in self.nodes.by_name.values() if each.name != self.leader]

    def tell(self, what: str) -> None:
        self.told.append(f"{trio.current_time():.2f} {what}")

    async def write(self) -> None:
        """Write events until cancelled, wherever the leader is."""
        while True:
            node = self.node
            self.sent += 1
            number = self.sent
            try:
                client = await node.client()
                with trio.move_on_after(20):
                    event = [None, "T", b"%d" % number, b""]
                    write = ["append", "s", ANY, [event]]
                    await client.ask("execute", node.new_id(), [], [], [write])
                    self.answered.append(number)
                await client.close()
            except (OSError, HeadwaterError, trio.EndOfChannel, trio.BrokenResourceError):
                pass
            await trio.sleep(self.random.uniform(0.0, 0.3))

    async def restart(self, node: Node) -> None:
        """Lose the power of a node, and start what is left."""
        self.tell(f"crash {node.name}")
        await node.crash()
        await trio.sleep(self.random.uniform(0, 2))
        follows = None if node.name == self.leader else self.leader
        await self.nodes.start(node.name, follows=follows)

    async def promote(self) -> None:
        """Lose the leader for good, promote the follower with the most, and begin a new one."""
        old = self.node
        await old.crash()
        newest = max(self.followers, key=lambda each: each.engine.leadership.end.index)
        self.tell(f"lose {old.name}, promote {newest.name}")
        client = await newest.client()
        await client.ask("promote")
        await client.close()
        self.leader = newest.name
        for each in self.followers:
            if each is not old:
                await each.crash()
                await self.nodes.start(each.name, follows=self.leader)
        # A machine with an empty disk takes the place of the one that was lost.
        del self.nodes.by_name[old.name]
        await self.nodes.start(old.name, follows=self.leader)

    async def step(self) -> None:
        await trio.sleep(self.random.uniform(0.05, 1.5))
        followers = self.followers
        match self.random.randrange(10):
            case 0 | 1:
                await self.restart(self.random.choice(followers))
            case 2:
                await self.restart(self.node)
            case 3 | 4:
                cut = self.random.choice(followers).name
                self.tell(f"cut {cut}")
                await self.nodes.disconnect(cut, self.leader)
            case 5:
                cut = self.random.choice(followers).name
                self.tell(f"cut {cut} for longer")
                await self.nodes.disconnect(cut, self.leader, for_good=True)
                await trio.sleep(self.random.uniform(0, 5))
                self.nodes.cut.clear()
            case 6 if self.random.random() < 0.7:
                await self.promote()
            case _:
                self.look()

    def look(self) -> None:
        """What followers show is a prefix of what the leader has in its log."""
        truth = numbers_at(self.node, durable=True)
        for each in self.followers:
            shown = numbers_at(each)
            assert shown == truth[: len(shown)], (each.name, shown, truth)


def numbers_at(node: Node, *, durable: bool = False) -> list[int]:
    """The numbers that readers of a node see; *durable*: also those on their way to followers."""
    engine = node.engine
    reader = engine.reader()
    if durable:
        state = engine._state
        reader = type(reader)(
            state, state.last_commit, state.last_position, examined_max=10**6, time=None
        )
    return [int(decode_event(each).data or b"") for each in all_events(reader, 0, EVERYTHING)]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_nothing_answered_is_lost_and_followers_show_prefixes(
    seed: int, autojump_clock: MockClock
) -> None:
    async with cluster(seed) as nodes:
        nodes.synchronous = 1
        world = World(nodes, seed)
        await nodes.start("a")
        for name in NAMES[1:]:
            await nodes.start(name, follows="a")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.write)
                for _ in range(STEPS):
                    await world.step()
                await trio.sleep(10)
                nursery.cancel_scope.cancel()
            newest = world.node.engine.published
            for each in world.followers:
                await each.reaches(newest)
                assert_equal(world.node.engine, each.engine)
            found = numbers_at(world.node)
            assert len(found) == len(set(found)), "an event is there twice"
            assert set(world.answered) <= set(found), "what was answered is there"
            assert len(world.answered) > STEPS // 2, "the world got work done"
        except BaseException:
            print("\n".join(world.told))
            raise
