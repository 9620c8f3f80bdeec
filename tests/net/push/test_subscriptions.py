"""Subscriptions over a session: history into live, credit, falling behind, no gap, no duplicate."""

import random
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Answer, Push
from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooLarge, TooMany
from headwater_server.net.session.session import open_session
from tests.net.serving import Client, MemoryServer, serving, settings


async def subscribe(client: Client, *arguments: Any) -> int:
    request_id = await client.send("subscribe", *arguments)
    await client.result(request_id)
    return request_id


def positions(push: Any) -> list[int]:
    assert push[0] == "events", push
    return [event[0] for event in push[1]]


async def test_history_then_caught_up_then_live() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"1", b"2")
        await subscribe(client, 0, {}, 100)
        assert positions(await client.pushed()) == [1, 2]
        assert await client.pushed() == ["caught_up", 2]
        await server.append(writer, "a-1", b"3")
        assert positions(await client.pushed()) == [3]


async def test_an_event_is_pushed_as_it_is_read() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await subscribe(client, 0, {}, 100)
        assert await client.pushed() == ["caught_up", 0]
        await server.append(writer, "a-1", b"data")
        [live] = (await client.pushed())[1]
        *_, [read], _ = await writer.ask("read_stream", None, "a-1")
        assert live == read


async def test_only_durable_events_are_pushed() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await subscribe(client, 0, {}, 100)
        await client.pushed()
        server.disk.hold()
        events = [[None, "T", b"", b""]]
        slow = await writer.send(
            "execute", server.new_id(), [], [], [["append", "a-1", -1, events]]
        )
        await client.ask("ping")
        server.disk.release()
        await writer.result(slow)
        assert positions(await client.pushed()) == [1]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"stream": "a-1"}, [1, 5]),
        ({"category": "a"}, [1, 2, 5]),
        ({"prefix": "b"}, [3, 4]),
        ({"types": ["U"]}, [4, 5]),
        ({"category": "a", "types": ["U"]}, [5]),
        ({}, [1, 2, 3, 4, 5]),
    ],
)
@pytest.mark.parametrize("live", [False, True])
async def test_a_filter_means_the_same_in_history_and_live(
    wanted: dict[str, Any], expected: list[int], live: bool
) -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()

        async def write() -> None:
            await server.append(writer, "a-1", b"")
            await server.append(writer, "a-2", b"")
            await server.append(writer, "b-1", b"")
            await server.append(writer, "b-2", b"", kind="U")
            await server.append(writer, "a-1", b"", kind="U")

        if not live:
            await write()
        await subscribe(client, 0, wanted, 100)
        seen: list[int] = []
        if not live:
            while (push := await client.pushed())[0] == "events":
                seen += positions(push)
            assert push == ["caught_up", 5]
        else:
            assert await client.pushed() == ["caught_up", 0]
            await write()
            while len(seen) < len(expected):
                seen += positions(await client.pushed())
        assert seen == expected


async def test_pushes_never_exceed_the_credit() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", *[b""] * 10)
        subscription = await subscribe(client, 0, {}, 3)
        assert positions(await client.pushed()) == [1, 2, 3]
        await wait_all_tasks_blocked()
        await client.ask("ping")
        grant = await client.send("credit", subscription, 4)
        await client.result(grant)
        assert positions(await client.pushed()) == [4, 5, 6, 7]
        await client.result(await client.send("credit", subscription, 4))
        assert positions(await client.pushed()) == [8, 9, 10]
        assert await client.pushed() == ["caught_up", 10]


async def test_a_feed_that_has_used_all_its_credit_still_gets_caught_up() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"", b"")
        await server.append(writer, "b-1", b"")
        await subscribe(client, 0, {"category": "a"}, 2)
        assert positions(await client.pushed()) == [1, 2]
        assert await client.pushed() == ["caught_up", 3]


async def test_a_live_subscriber_without_credit_falls_behind_and_misses_nothing() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        subscription = await subscribe(client, 0, {}, 2)
        assert await client.pushed() == ["caught_up", 0]
        await server.append(writer, "a-1", b"1")
        assert positions(await client.pushed()) == [1]
        await server.append(writer, "a-1", b"2", b"3", b"4")
        assert await client.pushed() == ["fell_behind", 1]
        assert positions(await client.pushed()) == [2]
        await server.append(writer, "a-1", b"5")
        await client.result(await client.send("credit", subscription, 100))
        assert positions(await client.pushed()) == [3, 4, 5]
        assert await client.pushed() == ["caught_up", 5]
        await server.append(writer, "a-1", b"6")
        assert positions(await client.pushed()) == [6]


async def test_a_subscriber_that_does_not_read_falls_behind_and_costs_no_memory() -> None:
    given = settings(output_pause_size=100_000, output_resume_size=10_000)
    async with serving(given) as server:
        writer = await server.connect()
        session = open_session(server.server.service, "by hand", lambda: None)
        client = Client(writer.stream)
        for name, arguments in (("hello", (1,)), ("subscribe", (0, {}, 1_000_000))):
            _, frame = client.connection.request(name, *arguments)
            session.receive(frame)
            client.connection.receive(bytes(session.output()))
            session.sent(session.output_size)
        await wait_all_tasks_blocked()
        for n in range(40):
            await server.append(writer, "a-1", b"x" * 10_000)
            assert session.output_size < 130_000, n
        seen: list[Any] = []
        for _ in range(200):
            while output := session.output():
                session.sent(len(output))
                for item in client.connection.receive(bytes(output)):
                    assert isinstance(item, Push)
                    seen.append(item.payload)
            await wait_all_tasks_blocked()
        words = [push[0] for push in seen]
        assert "fell_behind" in words
        assert words[-1] == "caught_up"
        read = [event[0] for push in seen if push[0] == "events" for event in push[1]]
        assert read == list(range(1, 41))
        session.close()


async def test_many_subscribers_of_one_filter_each_get_each_event_once() -> None:
    async with serving() as server:
        writer = await server.connect()
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            for _ in range(5):
                await client.send("subscribe", 0, {"category": "a"}, 1000)
        for n in range(3):
            await server.append(writer, "a-1", b"%d" % n)
        await wait_all_tasks_blocked()
        for client in clients:
            seen: dict[int, list[int]] = {}
            answers = 0
            while sum(map(len, seen.values())) < 15:
                item = await client.receive()
                if isinstance(item, Answer):
                    answers += 1
                    continue
                assert isinstance(item, Push)
                if item.payload[0] == "events":
                    seen.setdefault(item.request_id, []).extend(positions(item.payload))
            assert answers == 5
            assert list(seen.values()) == [[1, 2, 3]] * 5


async def test_nothing_is_pushed_after_the_answer_to_unsubscribe() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        subscription = await subscribe(client, 0, {}, 100)
        await client.pushed()
        await client.ask("unsubscribe", subscription)
        await server.append(writer, "a-1", b"")
        await client.ask("ping")
        with pytest.raises(InvalidArgument):
            await client.ask("credit", subscription, 1)
        assert (await client.ask("stats"))["subscriptions"] == 0


async def test_a_position_above_the_newest_is_refused() -> None:
    async with serving() as server:
        client = await server.connect()
        with pytest.raises(InvalidArgument):
            await client.ask("subscribe", 1)


async def test_credit_and_subscriptions_have_bounds() -> None:
    async with serving(settings(subscriptions_max=1)) as server:
        client = await server.connect()
        subscription = await subscribe(client, 0, {}, 1_000_000)
        await client.pushed()
        with pytest.raises(TooLarge):
            await client.ask("credit", subscription, 1)
        with pytest.raises(TooMany):
            await client.ask("subscribe")


@pytest.mark.source
async def test_a_subscription_whose_events_cannot_be_read_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"")

        def broken(*_: Any) -> Any:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(server.engine, "events_page", broken)
        await subscribe(client, 0, {}, 100)
        word, error = await client.pushed()
        assert word == "ended"
        assert HeadwaterError.from_payload(error).code == "internal_error"
        await client.ask("ping")


async def test_subscriptions_end_when_the_server_stops() -> None:
    async with serving() as server:
        client = await server.connect()
        await subscribe(client, 0, {}, 100)
        await client.pushed()
        server.nursery.start_soon(server.server.stop)
        word, error = await client.pushed()
        assert word == "ended"
        assert HeadwaterError.from_payload(error).code == "shutting_down"


@pytest.mark.parametrize("seed", range(8))
async def test_every_position_comes_once_and_in_order_under_any_schedule(seed: int) -> None:
    """With random writes, credit and checkpoints, each subscriber sees 1, 2, 3, … to the end."""
    print(f"seed {seed}")
    source = random.Random(seed)
    given = settings(output_pause_size=2_000, output_resume_size=500)
    async with serving(given) as server:
        writer = await server.connect()
        followers = [Follower(await server.connect()) for _ in range(4)]
        for _ in range(60):
            await step(source, server, writer, followers)
        total = server.engine.published_position
        for follower in followers:
            await follower.drain(total)
            assert follower.seen == list(range(follower.start + 1, total + 1))


class Follower:
    """A subscriber that records the positions of its events."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.start = 0
        self.subscription = 0
        self.seen: list[int] = []
        self.granted = 0

    async def begin(self, after: int) -> None:
        self.start = after
        self.subscription = await self.client.send("subscribe", after, {}, 0)

    async def grant(self, events: int) -> None:
        self.granted += events
        await self.client.send("credit", self.subscription, events)

    async def drain(self, total: int) -> None:
        if not self.subscription:
            await self.begin(0)
        while self.start + len(self.seen) < total:
            if len(self.seen) == self.granted:
                await self.grant(7)
            self.note(await self.client.receive())
        assert len(self.seen) <= self.granted

    def note(self, item: Any) -> None:
        if isinstance(item, Push) and item.payload[0] == "events":
            self.seen += positions(item.payload)


async def step(
    source: random.Random, server: MemoryServer, writer: Client, followers: list[Follower]
) -> None:
    follower = source.choice(followers)
    match source.randrange(5):
        case 0 | 1:
            count = source.randint(1, 5)
            await server.append(writer, f"a-{source.randrange(3)}", *[b"x" * 50] * count)
        case 2 if follower.subscription:
            await follower.grant(source.randint(1, 10))
        case 3 if not follower.subscription:
            await follower.begin(source.randint(0, server.engine.published_position))
        case 4:
            await server.server._checkpointer.checkpoint()
        case _:
            await wait_all_tasks_blocked()
