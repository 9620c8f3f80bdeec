"""The client on several nodes in memory (tests/replication/nodes.py), in simulated time.

    async with cluster() as nodes, connected(nodes, "ab", read="nearest") as db:
        await db.put("k", 1)

The streams of the client go to the servers in memory; all else is the client that ships.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import trio

from headwater.codecs.codec import MsgpackCodec
from headwater.database import Database
from headwater.nodes.routed_channel import RoutedChannel
from headwater.transport.connection import Connection
from headwater.transport.runtime import Greeting, Options
from headwater.transport.trio_runtime import TrioRuntime
from headwater_protocol.address import Address, parse_addresses
from tests.replication.nodes import Node, Nodes

RETRY_S = 3600.0
"""Seconds of simulated time in which a test's outage is over."""


class NodesRuntime(TrioRuntime):
    """trio, with streams to nodes in memory.

    Attributes:
        opened: the hosts that connections were opened to, in order, whether it worked or not.
        cut: hosts that this client cannot reach.
    """

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.cut: set[str] = set()
        self._nodes = nodes

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        self.opened.append(address.host)

        async def dial() -> trio.abc.Stream:
            node = self._nodes.by_name.get(address.host)
            if node is None or address.host in self.cut:
                raise OSError(f"{address.host} is not there")
            return await node.stream()

        return await super().open(address, replace(options, open_stream=dial), greet)


@asynccontextmanager
async def connected(
    nodes: Nodes, names: Iterable[str], *, read: str = "leader", retry_s: float = RETRY_S
) -> AsyncIterator[Database]:
    """A database of the nodes with these names."""
    addresses = parse_addresses(f"headwater://{','.join(names)}/?read={read}")
    options = Options(
        codec=MsgpackCodec(), retry_timeout=retry_s, nodes=addresses.nodes, read=addresses.read
    )
    async with Database(addresses.nodes[0], options, NodesRuntime(nodes)) as db:
        yield db


def runtime_of(db: Database) -> NodesRuntime:
    """The runtime of a database of `connected`."""
    runtime = db._runtime
    assert isinstance(runtime, NodesRuntime)
    return runtime


def channel_of(db: Database) -> RoutedChannel:
    """The channel of a database of `connected`."""
    channel = db._channel
    assert isinstance(channel, RoutedChannel)
    return channel


def route_at_random(db: Database, source: Random) -> None:
    """Let reads go to any node next, as changing round trips would."""
    for node in channel_of(db).nodes:
        node.round_trip = source.random()


def drop_connections(db: Database) -> None:
    """Lose all connections of a client."""
    for connection in list(runtime_of(db)._connections):
        connection.close()


async def promote(node: Node) -> None:
    """Make a follower the leader."""
    client = await node.client()
    await client.ask("promote")
    await client.close()


async def three(nodes: Nodes, *, synchronous: int = 0) -> list[Node]:
    """A leader a, and its followers b and c."""
    nodes.synchronous = synchronous
    leader = await nodes.start("a")
    return [leader, await nodes.start("b", follows="a"), await nodes.start("c", follows="a")]


async def fail_over(nodes: Nodes, leader: Node, followers: list[Node]) -> Node:
    """Lose the leader, promote the follower with the newest log, and let the others follow it."""
    await leader.crash()
    newest = max(followers, key=lambda node: node.engine.log_reader.last_index)
    await promote(newest)
    for node in followers:
        if node is not newest:
            await node.crash()
            await nodes.start(node.name, follows=newest.name)
    return newest


def seconds(source: Random, most: float) -> float:
    """A random pause."""
    return source.random() * most
