"""Consumer groups over a session: joining, pushes, leases by the clock, the end of connections."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from headwater_protocol.connection import Push
from headwater_protocol.errors import (
    DeliveryLost,
    GroupExists,
    InvalidArgument,
    NoSuchGroup,
    ShuttingDown,
    TooMany,
)
from headwater_server.engine.consumer_groups.schedule import RETRY_US_MAX
from headwater_server.net.session.session import open_session
from tests.net.serving import Client, MemoryServer, serving, settings

CREATE: Final[tuple[Any, ...]] = (
    "group_create",
    "mailer",
    {},
    0,
    {"retry_ms": 1000, "lease_ms": 5000},
)


async def join(client: Client, credit: int = 100) -> int:
    request_id = await client.send("group_join", "mailer", credit)
    await client.result(request_id)
    return request_id


async def deliveries(client: Client) -> list[tuple[int, int, int]]:
    """Position, token and attempt of the deliveries in the next push."""
    word, rows = await client.pushed()
    assert word == "deliveries", (word, rows)
    return [(event[0], token, attempt) for token, attempt, event in rows]


async def ack(server: MemoryServer, client: Client, *claims: tuple[int, int]) -> Any:
    writes = [["ack", "mailer", [list(claim) for claim in claims]]]
    return await client.ask("execute", server.new_id(), [], [], writes)


async def test_a_member_gets_existing_events_then_new_ones_then_the_end() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"1")
        assert await writer.ask(*CREATE) == [0]
        await join(client)
        [(position, token, attempt)] = await deliveries(client)
        assert (position, attempt) == (1, 1)
        await ack(server, writer, (position, token))
        assert await client.pushed() == ["caught_up", 1]
        await server.append(writer, "a-1", b"2")
        [(position, token, _)] = await deliveries(client)
        assert position == 2


async def test_a_delivery_is_the_event_as_it_is_read() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"data")
        await writer.ask(*CREATE)
        await join(client)
        _, [[_, _, delivered]] = await client.pushed()
        *_, [read], _ = await writer.ask("read_stream", None, "a-1")
        assert delivered == read


async def test_only_durable_events_are_delivered() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await writer.ask(*CREATE)
        await join(client)
        assert await client.pushed() == ["caught_up", 0]
        server.disk.hold()
        events = [[None, "T", b"", b""]]
        slow = await writer.send(
            "execute", server.new_id(), [], [], [["append", "a-1", -1, events]]
        )
        await client.ask("ping")
        server.disk.release()
        await writer.result(slow)
        assert [position for position, *_ in await deliveries(client)] == [1]


async def test_deliveries_never_exceed_the_credit() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        for n in range(5):
            await server.append(writer, f"a-{n}", b"")
        await writer.ask(*CREATE)
        membership = await join(client, credit=2)
        assert len(await deliveries(client)) == 2
        await wait_all_tasks_blocked()
        await client.ask("ping")
        await client.result(await client.send("credit", membership, 1))
        assert len(await deliveries(client)) == 1
        with pytest.raises(InvalidArgument, match="10001 deliveries; allowed are 10000"):
            await client.ask("credit", membership, 10_001)


async def test_an_expired_lease_goes_to_another_member(autojump_clock: MockClock) -> None:
    async with serving() as server:
        silent, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"1")
        await writer.ask(*CREATE)
        await join(silent)
        [(position, token, _)] = await deliveries(silent)
        other = await server.connect()
        await join(other)
        began = trio.current_time()
        [(again, _, attempt)] = await deliveries(other)
        assert (again, attempt) == (1, 2)
        assert 5.0 <= trio.current_time() - began < 5.1
        assert await silent.pushed() == ["lost", [token]]
        with pytest.raises(DeliveryLost, match="event 1 is no longer with this consumer"):
            await ack(server, writer, (position, token))


async def test_deliveries_of_a_closed_connection_go_to_others_immediately() -> None:
    async with serving() as server:
        first, writer = await server.connect(), await server.connect()
        for n in range(3):
            await server.append(writer, f"a-{n}", b"")
        await writer.ask(*CREATE)
        await join(first)
        assert len(await deliveries(first)) == 3
        second = await server.connect()
        await join(second)
        await first.close()
        # One at a time: any of them may have killed the first member.
        done = []
        for _ in range(3):
            [(position, token, attempt)] = await deliveries(second)
            assert attempt == 2
            done.append(position)
            await ack(server, writer, (position, token))
        assert sorted(done) == [1, 2, 3]
        assert await second.pushed() == ["caught_up", 3]


async def test_leaving_ends_the_pushes_and_costs_no_attempt() -> None:
    async with serving() as server:
        first, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"")
        await writer.ask(*CREATE)
        membership = await join(first)
        await deliveries(first)
        second = await server.connect()
        await join(second)
        await first.result(await first.send("group_leave", membership))
        [(position, _, attempt)] = await deliveries(second)
        assert (position, attempt) == (1, 1)
        await server.append(writer, "b-1", b"")
        assert await first.ask("ping")
        with pytest.raises(InvalidArgument, match=f"there is no membership {membership}"):
            await first.ask("group_leave", membership)


async def test_a_nacked_event_comes_again_when_its_pause_is_over(
    autojump_clock: MockClock,
) -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"")
        await writer.ask(*CREATE)
        await join(client)
        [(position, token, _)] = await deliveries(client)
        began = trio.current_time()
        await writer.ask("nack", "mailer", [[position, token]], 3000, "no route")
        with trio.move_on_after(2.9) as early:
            await deliveries(client)
        assert early.cancelled_caught
        server.database.now += 3_000_000
        assert [(p, a) for p, _, a in await deliveries(client)] == [(1, 2)]
        assert 3.0 <= trio.current_time() - began < 3.2


async def test_a_pause_longer_than_the_longest_timer_is_kept(autojump_clock: MockClock) -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"")
        await writer.ask(*CREATE)
        await join(client)
        [(position, token, _)] = await deliveries(client)
        delay_ms = 3 * RETRY_US_MAX // 1000
        await writer.ask("nack", "mailer", [[position, token]], delay_ms)
        with trio.move_on_after(delay_ms / 1000) as early:
            await deliveries(client)
        assert early.cancelled_caught, "the engine's clock did not move"


async def test_parked_events_are_listed_page_by_page_with_their_data() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        for n in range(3):
            await server.append(writer, f"a-{n}", b"%d" % n)
        await writer.ask(*CREATE)
        await join(client)
        claims = [[position, token] for position, token, _ in await deliveries(client)]
        await writer.ask("nack", "mailer", claims, None, "broken", True)
        assert await client.pushed() == ["caught_up", 3]
        [first, second], more = await writer.ask("group_parked", "mailer", 0, 2)
        assert more is True
        assert [first[0], first[1], first[2], first[4][7]] == [1, 1, "broken", b"0"]
        [third], more = await writer.ask("group_parked", "mailer", second[0], 2)
        assert (third[0], more) == (3, False)
        assert await writer.ask("group_replay", "mailer", [2]) == [1]
        assert [(p, a) for p, _, a in await deliveries(client)] == [(2, 1)]
        assert await writer.ask("group_discard", "mailer") == [2]
        assert await writer.ask("group_parked", "mailer") == [[], False]


async def test_a_deleted_group_ends_its_members() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await writer.ask(*CREATE)
        membership = await join(client)
        assert await client.pushed() == ["caught_up", 0]
        await writer.ask("group_delete", "mailer")
        word, [code, message, *_] = await client.pushed()
        assert (word, code, message) == (
            "ended",
            "no_such_group",
            "the group 'mailer' was deleted",
        )
        assert membership not in client.connection.in_flight


async def test_a_changed_group_takes_back_the_deliveries_of_its_members() -> None:
    async with serving() as server:
        client, writer = await server.connect(), await server.connect()
        await server.append(writer, "a-1", b"")
        await server.append(writer, "b-1", b"")
        await writer.ask(*CREATE)
        await join(client)
        tokens = [token for _, token, _ in await deliveries(client)]
        await writer.ask("group_update", "mailer", {"category": "b"})
        seen: list[Any] = [await client.pushed(), await client.pushed()]
        lost = next(push[1] for push in seen if push[0] == "lost")
        assert sorted(lost) == sorted(tokens)
        again = next(push[1] for push in seen if push[0] == "deliveries")
        assert [(event[0], attempt) for _, attempt, event in again] == [(2, 1)]


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.ask("group_join", "nobody", 1),
        lambda client: client.ask("group_info", "nobody"),
        lambda client: client.ask("group_update", "nobody"),
        lambda client: client.ask("group_delete", "nobody"),
        lambda client: client.ask("group_parked", "nobody"),
        lambda client: client.ask("group_replay", "nobody"),
        lambda client: client.ask("group_discard", "nobody"),
        lambda client: client.ask("nack", "nobody", [[1, 1]]),
        lambda client: client.ask(
            "execute", bytes(15) + b"1", [], [], [["ack", "nobody", [[1, 1]]]]
        ),
    ],
)
async def test_a_missing_group_has_its_own_error(
    act: Callable[[Client], Any],
) -> None:
    async with serving() as server:
        client = await server.connect()
        with pytest.raises(NoSuchGroup, match="there is no group 'nobody'"):
            await act(client)
        assert await client.ask("ping")


async def test_an_existing_group_has_its_own_error() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.ask(*CREATE)
        with pytest.raises(GroupExists, match="there is a group 'mailer' already"):
            await client.ask(*CREATE)
        assert await client.ask("group_list") == [["mailer", 0, 0, 0]]


async def test_memberships_of_a_connection_are_bounded() -> None:
    async with serving(settings(memberships_max=2)) as server:
        client = await server.connect()
        await client.ask(*CREATE)
        await join(client, credit=0)
        await client.pushed()
        await join(client, credit=0)
        await client.pushed()
        with pytest.raises(TooMany, match="2 memberships on this connection; allowed are 2"):
            await join(client)
        assert (await client.ask("stats"))["group_members"] == 2


async def test_a_member_that_does_not_read_gets_no_more_until_it_does() -> None:
    given = settings(output_pause_size=100_000, output_resume_size=10_000)
    async with serving(given) as server:
        writer = await server.connect()
        for n in range(40):
            await server.append(writer, f"a-{n}", b"x" * 10_000)
        await writer.ask(*CREATE)
        session = open_session(server.server.service, "by hand", lambda: None)
        client = Client(writer.stream)
        for name, arguments in (("hello", (1,)), ("group_join", ("mailer", 1000))):
            _, frame = client.connection.request(name, *arguments)
            session.receive(frame)
            client.connection.receive(bytes(session.output()))
            session.sent(session.output_size)
        await wait_all_tasks_blocked()
        seen = 0
        for _ in range(100):
            assert session.output_size < 1_500_000
            while output := session.output():
                session.sent(len(output))
                for item in client.connection.receive(bytes(output)):
                    assert isinstance(item, Push)
                    seen += len(item.payload[1]) if item.payload[0] == "deliveries" else 0
            await wait_all_tasks_blocked()
        assert seen == 40
        session.close()


async def test_members_are_told_when_the_server_shuts_down() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.ask(*CREATE)
        await join(client)
        assert await client.pushed() == ["caught_up", 0]
        server.nursery.start_soon(server.server.stop)
        word, [code, *_] = await client.pushed()
        assert (word, code) == ("ended", ShuttingDown.code)
