"""The laws of feeds, for every source: events, changes of keys, deliveries of a consumer group.

- A feed never pushes more items than its credit, except to complete a commit of keys.
- A feed pushes every wanted item once and in order.
- `caught_up` and `fell_behind` with a position are pushed after all items up to the position, and
  before all later items.
- If a source raises an error, its feed ends and no other feed does.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import ClientConnection, Failure, Push
from headwater_protocol.errors import HeadwaterError
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_server.net.session.session import open_session
from tests.net.serving import Client, MemoryServer, serving, settings

Item = tuple[int, int]
"""A position and the number that was written there."""


class Kind:
    """How a kind of feed is opened, written to and read."""

    word = ""
    tells_falling_behind = True

    def arguments(self, credit: int) -> tuple[Any, ...]:
        """The request that opens a feed of the wanted items."""
        raise NotImplementedError

    def write_of(self, number: int, *, wanted: bool) -> list[Any]:
        """The operation that writes an item."""
        raise NotImplementedError

    def items(self, payload: list[Any]) -> list[list[Item]]:
        """The items of a push, grouped if they must stay together."""
        raise NotImplementedError

    async def prepare(self, client: Client) -> None:
        """Prepare the server before a feed is opened."""

    def claims(self, payload: list[Any]) -> list[list[int]]:
        """The parts of a push that the client must acknowledge."""
        return []


class Events(Kind):
    word = "events"

    def arguments(self, credit: int) -> tuple[Any, ...]:
        return "subscribe", 0, {"category": "a"}, credit

    def write_of(self, number: int, *, wanted: bool) -> list[Any]:
        stream = f"{'a' if wanted else 'b'}-{number}"
        return ["append", stream, -1, [[None, "T", b"%d" % number, b""]]]

    def items(self, payload: list[Any]) -> list[list[Item]]:
        return [[(event[0], int(event[7]))] for event in payload]


class Keys(Kind):
    word = "changes"

    def arguments(self, credit: int) -> tuple[Any, ...]:
        return "subscribe_keys", b"a", b"b", 0, credit

    def write_of(self, number: int, *, wanted: bool) -> list[Any]:
        return ["put", b"%s%06d" % (b"a" if wanted else b"c", number), b"v"]

    def items(self, payload: list[Any]) -> list[list[Item]]:
        return [
            [(commit, int(change[0][1:])) for change in changes] for commit, changes, _ in payload
        ]


class Deliveries(Events):
    word = "deliveries"
    tells_falling_behind = False

    def arguments(self, credit: int) -> tuple[Any, ...]:
        return "group_join", "g", credit

    def items(self, payload: list[Any]) -> list[list[Item]]:
        return [[(event[0], int(event[7]))] for _token, _attempt, event in payload]

    async def prepare(self, client: Client) -> None:
        await client.ask("group_create", "g", {"category": "a"}, 0, {})

    def claims(self, payload: list[Any]) -> list[list[int]]:
        return [[event[0], token] for token, _attempt, event in payload]


class Reader:
    """A client that reads when the test tells it to, and checks the laws on what it receives."""

    def __init__(self, server: MemoryServer, kind: Kind, written: list[Item]) -> None:
        self.session = open_session(server.server.service, "by hand", lambda: None)
        self.connection = ClientConnection()
        self.kind = kind
        self.written = written
        self.credit = 0
        self.live = False
        self.got: list[Item] = []
        self.claims: list[list[int]] = []
        self.error: HeadwaterError | None = None
        self.ask("hello", PROTOCOL_VERSION)

    def ask(self, name: str, *arguments: Any) -> int:
        request_id, frame = self.connection.request(name, *arguments)
        self.session.receive(frame)
        return request_id

    def take(self) -> None:
        """Read everything available."""
        while output := self.session.output():
            self.session.sent(len(output))
            while self.session.runnable:
                self.session.run()
            for item in self.connection.receive(bytes(output)):
                assert not isinstance(item, Failure), item.error
                if isinstance(item, Push):
                    self._judge(item.payload)

    def _judge(self, payload: list[Any]) -> None:
        word, what = payload
        if word == "ended":
            self.error = HeadwaterError.from_payload(what)
        elif word == self.kind.word:
            for together in self.kind.items(what):
                assert self.credit > 0, "an item was pushed without credit"
                self.credit -= len(together)
                self.got += together
            self.claims += self.kind.claims(what)
        else:
            assert word in ("caught_up", "fell_behind")
            assert self.got == [item for item in self.written if item[0] <= what]
            if self.kind.tells_falling_behind:
                assert self.live == (word == "fell_behind"), (
                    "caught_up and fell_behind must alternate"
                )
            self.live = word == "caught_up"


async def _acknowledge(server: MemoryServer, writer: Client, reader: Reader) -> None:
    claims, reader.claims = reader.claims, []
    if claims:
        await writer.ask("execute", server.new_id(), [], [], [["ack", "g", claims]])


KINDS = [Events(), Keys(), Deliveries()]


def _name(kind: Kind) -> str:
    return kind.word


async def _write(
    server: MemoryServer, writer: Client, kind: Kind, numbers: range, dice: random.Random
) -> list[Item]:
    """Write in one transaction; return the wanted items with their positions."""
    wanted = {number: dice.random() < 0.7 for number in numbers}
    before = server.engine.published_position
    writes = [kind.write_of(number, wanted=is_wanted) for number, is_wanted in wanted.items()]
    await writer.ask("execute", server.new_id(), [], [], writes)
    if kind.word == "changes":
        return [(server.engine.published, number) for number in numbers if wanted[number]]
    positions = range(before + 1, before + 1 + len(numbers))
    return [(at, number) for at, number in zip(positions, numbers, strict=True) if wanted[number]]


@pytest.mark.parametrize("kind", KINDS, ids=_name)
@pytest.mark.parametrize("seed", range(8))
async def test_every_wanted_item_comes_once_in_order_and_within_the_credit(
    kind: Kind, seed: int
) -> None:
    print(f"{seed=}")
    dice = random.Random(seed)
    written: list[Item] = []
    number = 0
    given = settings(output_pause_size=2_000, output_resume_size=500)
    async with serving(given) as server:
        writer = await server.connect()
        await kind.prepare(writer)
        reader = Reader(server, kind, written)
        reader.take()
        feed = 0
        for _ in range(60):
            match dice.randrange(4):
                case 0 | 1:
                    count = dice.choice([1, 1, 2, 5, 30])
                    numbers = range(number + 1, number + 1 + count)
                    number += count
                    written += await _write(server, writer, kind, numbers, dice)
                case 2 if feed:
                    # A group refuses larger credits; this test is not about that.
                    credit = dice.randrange(1, 40)
                    if reader.session.wants_input and reader.credit + credit < 100:
                        reader.credit += credit
                        reader.ask("credit", feed, credit)
                case 3:
                    reader.take()
                    await _acknowledge(server, writer, reader)
            if not feed and dice.random() < 0.3:
                reader.credit = dice.randrange(0, 20)
                feed = reader.ask(*kind.arguments(reader.credit))
            if dice.random() < 0.6:
                await wait_all_tasks_blocked()
        if not feed:
            feed = reader.ask(*kind.arguments(0))
        while len(reader.got) < len(written) or not reader.live:
            had = len(reader.got)
            granted = reader.credit < 20
            if granted:
                reader.credit += 50
                reader.ask("credit", feed, 50)
            for _ in range(2):
                await wait_all_tasks_blocked()
                reader.take()
                await _acknowledge(server, writer, reader)
            await wait_all_tasks_blocked()
            reader.take()
            assert granted or reader.live or len(reader.got) > had, (
                "the feed stopped although it has credit"
            )
        assert reader.got == written
        assert reader.error is None
        reader.session.close()


def _fail_for(
    server: MemoryServer, kind: Kind, patch: pytest.MonkeyPatch, error: Exception
) -> Callable[[], None]:
    """Make the source raise for the first feed; return a function that does so for live feeds."""
    if kind.word == "deliveries":
        groups = server.engine.groups
        turn = groups.turn

        def broken_turn(name: str, now: int) -> Any:
            if name == "g":
                raise error
            return turn(name, now)

        patch.setattr(groups, "turn", broken_turn)
        return lambda: None
    name = "_subscriptions" if kind.word == "events" else "_key_feeds"
    feeds: Any = getattr(server.server, name)
    source = feeds._source
    page = source.page

    def broken_page(position: int, wanted: Any, limit: int, inside: bytes | None) -> Any:
        if wanted == feeds_wanted[0]:
            raise error
        return page(position, wanted, limit, inside)

    def broken_live_page(_position: int) -> Any:
        raise error

    feeds_wanted = [next(iter(feeds._queue)).wanted]
    patch.setattr(source, "page", broken_page)
    return lambda: patch.setattr(source, "live_page", broken_live_page)


OTHER: dict[str, tuple[Any, ...]] = {
    "events": ("subscribe", 0, {}, 1000),
    "changes": ("subscribe_keys", b"", None, 0, 1000),
    "deliveries": ("group_join", "other", 50),
}


@pytest.mark.source
@pytest.mark.parametrize("kind", KINDS, ids=_name)
async def test_a_source_that_raises_ends_only_that_feed(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        writer = await server.connect()
        await kind.prepare(writer)
        if kind.word == "deliveries":
            await writer.ask("group_create", "other", {}, 0, {})
        await writer.ask("execute", server.new_id(), [], [], [kind.write_of(1, wanted=True)])
        faulty, other = Reader(server, kind, []), Reader(server, kind, [])
        faulty.take()
        other.take()
        faulty.credit = 10
        faulty.ask(*kind.arguments(10))
        fail_live = _fail_for(server, kind, monkeypatch, OSError(5, "Input/output error"))
        other.credit = 1000
        other.written.append((1, 1))
        other.ask(*OTHER[kind.word])
        await wait_all_tasks_blocked()
        faulty.take()
        other.take()
        if other.claims:
            await writer.ask("execute", server.new_id(), [], [], [["ack", "other", other.claims]])
            await wait_all_tasks_blocked()
            other.take()
        assert faulty.error is not None
        assert faulty.error.code == "internal_error"
        assert other.live
        # When the read for all live feeds fails, each of them reads on its own.
        fail_live()
        other.written.append((2, 2))
        await writer.ask("execute", server.new_id(), [], [], [kind.write_of(2, wanted=True)])
        await wait_all_tasks_blocked()
        other.take()
        assert other.got == [(1, 1), (2, 2)]
        assert other.error is None
        assert not server.server.service.failures.failed
        for reader in (faulty, other):
            reader.session.close()
