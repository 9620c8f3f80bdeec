"""Subscriptions: credit, reconnecting, and the end."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

import headwater
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def event(position: int) -> list[Any]:
    return [position, "s", position, 1, 0, b"0" * 16, "A", b"\x01", b""]


def push(server: FakeServer, *payloads: Any, known: int = 1) -> None:
    """Push to the newest subscription. The fake server must have *known* of them open."""
    opened = [
        (peer, request_id)
        for peer in server.peers
        for request_id, name in list(peer.protocol.in_flight.items())
        if name == "subscription"
    ]
    if len(opened) < known:
        raise AssertionError(f"{len(opened)} subscriptions, not {known}")
    peer, request_id = opened[-1]
    # The lock makes the push wait until the answer to the subscribe was sent.
    with peer.in_order:
        for payload in payloads:
            peer.push(request_id, payload)


def test_items_are_batches_and_the_messages_between_them(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(after=3, stream="s", types=["A"], window=10) as feed:
            push(server, ["events", [event(4), event(5)]], ["caught_up", 5], ["fell_behind", 5])
            batch = await anext(feed)
            assert isinstance(batch, headwater.EventBatch)
            assert [one.position for one in batch] == [4, 5]
            assert (batch[0].version, batch.position, len(batch)) == (4, 5, 2)
            assert await anext(feed) == headwater.CaughtUp(headwater.Position(5))
            assert await anext(feed) == headwater.FellBehind(headwater.Position(5))
            assert feed.position == 5

    run_on(face, server.url, scenario)
    assert server.named("subscribe")[0].arguments == [3, {"stream": "s", "types": ["A"]}, 10]


def test_credit_is_granted_when_batches_were_handled(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(window=4) as feed:
            push(server, ["events", [event(1)]], ["events", [event(2)]], ["events", [event(3)]])
            await anext(feed)
            assert not server.named("credit")
            await anext(feed)
            assert not server.named("credit")
            await anext(feed)
            server.wait_for("credit")
            push(server, ["caught_up", 3])
            await anext(feed)

    run_on(face, server.url, scenario)
    assert [came.arguments[1] for came in server.named("credit")] == [2]


def test_after_a_lost_connection_a_subscription_continues_after_its_last_event(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(window=8) as feed:
            push(server, ["events", [event(1), event(2)]])
            assert len(await anext(feed)) == 2  # type: ignore[arg-type]
            push(server, ["events", [event(3)]])
            server.drop_all()
            # The third event may or may not arrive before the connection is lost.
            pusher = threading.Thread(target=push_later_events, args=(server, 2, 4))
            pusher.start()
            feed_events = feed.events()
            assert [(await anext(feed_events)).position for _ in range(2)] == [3, 4]
            pusher.join()

    run_on(face, server.url, scenario)
    assert [came.arguments[0] for came in server.named("subscribe")] in ([0, 2], [0, 3])


def push_later_events(server: FakeServer, count: int, last: int) -> None:
    """Answer the count-th subscribe request with the events after its position."""
    server.wait_for("subscribe", count)
    after = server.named("subscribe")[-1].arguments[0]
    rows = [event(position) for position in range(after + 1, last + 1)]
    # For the fake server, the subscription of the lost connection is still open.
    subscribe_then_push(server, count, ["events", rows], known=count).join()


def subscribe_then_push(
    server: FakeServer, count: int, *payloads: Any, known: int = 1
) -> threading.Thread:
    def wait_and_push() -> None:
        server.wait_for("subscribe", count)
        while True:
            try:
                push(server, *payloads, known=known)
                return
            except AssertionError:
                continue

    thread = threading.Thread(target=wait_and_push)
    thread.start()
    return thread


def test_an_error_that_ends_a_subscription_is_raised_when_the_next_item_is_awaited(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            push(server, ["events", [event(1)]])
            push(server, ["ended", headwater.PermissionDenied("not you").as_payload()])
            await anext(feed)
            with pytest.raises(headwater.PermissionDenied):
                await anext(feed)

    run_on(face, server.url, scenario)


def test_a_shutdown_ends_a_subscription_only_if_the_server_does_not_come_back(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            push(server, ["ended", headwater.ShuttingDown("bye").as_payload()])
            pusher = subscribe_then_push(server, 2, ["caught_up", 9])
            assert (await anext(feed)).position == 9
            pusher.join()
            server.stop()
            with pytest.raises(headwater.ConnectionLost):
                await anext(feed)

    run_on(face, server.url, scenario, retry_timeout=0.3)
    assert len(server.named("subscribe")) == 2


def test_leaving_the_block_ends_the_subscription(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe():
            pass
        await db.ping()

    run_on(face, server.url, scenario)
    if face == "blocking":
        # The subscription has its own connection, which is closed.
        assert server.named("subscribe")[0].connection == 1
    else:
        assert len(server.named("unsubscribe")) == 1


def test_an_error_of_subscribe_is_raised_when_the_block_is_entered(
    face: str, server: FakeServer
) -> None:
    server.on("subscribe", headwater.TooMany("subscriptions"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.TooMany):
            async with db.subscribe():
                raise AssertionError
        await db.ping()

    run_on(face, server.url, scenario, retry_timeout=0)


def test_wrong_arguments_are_refused_at_the_call(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        for wrong in ({"window": 0}, {"after": -1}, {"types": "A"}, {"category": ""}):
            with pytest.raises((headwater.InvalidArgument, headwater.TooLarge)):
                db.subscribe(**wrong)
        with pytest.raises(headwater.InvalidArgument, match="async with"):
            await anext(db.subscribe())

    run_on("blocking", server.url, scenario)


async def test_only_one_task_can_wait_for_items_of_a_subscription(server: FakeServer) -> None:
    async with (
        headwater.connect(server.url) as db,
        db.subscribe() as feed,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(anext, feed)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(headwater.InvalidArgument, match="one task"):
            await anext(feed)
        nursery.cancel_scope.cancel()


def test_messages_of_a_newer_server_that_are_unknown_are_ignored(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            push(server, ["news", 1, 2], ["caught_up", 4])
            assert await anext(feed) == headwater.CaughtUp(headwater.Position(4))

    run_on(face, server.url, scenario)


# An event that cannot be decoded is delivered like any other, and hides no other.


def undecodable(position: int) -> list[Any]:
    return [position, "s", position, 1, 0, b"0" * 16, "A", b"\xc1", b""]


@pytest.mark.parametrize("bad", [{1}, {3}, {5}, {1, 2}, {2, 4}, {1, 2, 3, 4, 5}], ids=str)
def test_an_undecodable_event_hides_no_other_event(
    face: str, server: FakeServer, bad: set[int]
) -> None:
    async def scenario(db: headwater.Database) -> None:
        seen: list[int] = []
        failed: list[int] = []
        async with db.subscribe() as feed:
            rows = [undecodable(n) if n in bad else event(n) for n in range(1, 6)]
            push(server, ["events", rows], ["caught_up", 5])
            batch = await anext(feed)
            assert isinstance(batch, headwater.EventBatch)
            for one in batch:
                try:
                    assert one.data == 1
                    seen.append(one.position)
                except headwater.Undecodable as error:
                    failed.append(error.details["position"])
            assert isinstance(await anext(feed), headwater.CaughtUp)
        assert seen == [n for n in range(1, 6) if n not in bad]
        assert failed == sorted(bad)

    run_on(face, server.url, scenario)


def test_the_position_moves_with_each_single_event(face: str, server: FakeServer) -> None:
    """It moved to the end of the batch with its first event: who stopped there skipped the rest."""

    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(after=2) as feed:
            push(
                server, ["events", [event(3), event(4)]], ["caught_up", 9], ["events", [event(10)]]
            )
            events = feed.events()
            for position in (3, 4, 10):
                assert (await anext(events)).position == feed.position == position

    run_on(face, server.url, scenario)


def test_single_events_and_batches_can_be_asked_for_in_turn(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            push(server, ["events", [event(n) for n in range(1, 6)]], ["caught_up", 5])
            assert (await anext(feed.events())).position == 1
            assert (await anext(feed.events())).position == 2
            rest = await anext(feed)
            assert isinstance(rest, headwater.EventBatch)
            assert [one.position for one in rest] == [3, 4, 5]
            assert feed.position == 5
            assert isinstance(await anext(feed), headwater.CaughtUp)

    run_on(face, server.url, scenario)


def test_a_subscription_notices_that_the_server_disappeared_without_an_error(
    face: str, server: FakeServer
) -> None:
    # The blocking face used to wait for pushes without a timeout, that is, for ever.
    server.on("ping", server.HANG)

    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            pusher = subscribe_then_push(server, 2, ["caught_up", 9], known=2)
            assert (await anext(feed)).position == 9
            pusher.join()

    run_on(face, server.url, scenario, request_timeout=0.3)
    assert server.named("ping")


def test_a_subscription_since_a_time_to_come_gets_nothing_before_it(
    face: str, server: FakeServer
) -> None:
    """The position that it began after was that of now."""
    since = datetime(2030, 1, 1, tzinfo=UTC)
    microseconds = int(since.timestamp()) * 1_000_000

    def at(position: int, time: int) -> list[Any]:
        row = event(position)
        row[4] = time
        return row

    server.on("position_before", 0)

    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(since=since, window=10) as feed:
            push(
                server,
                ["events", [at(1, microseconds - 2)]],
                ["events", [at(2, microseconds - 1), at(3, microseconds), at(4, microseconds)]],
            )
            batch = await anext(feed)
            assert isinstance(batch, headwater.EventBatch)
            assert [one.position for one in batch] == [3, 4]
            assert feed.position == 4

    run_on(face, server.url, scenario)


def test_a_slow_consumer_is_told_once_how_far_a_quiet_subscription_is(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe() as feed:
            push(server, ["caught_up", 5], ["caught_up", 7], ["events", [event(8)]])
            assert await anext(feed) == headwater.CaughtUp(headwater.Position(7))
            assert (await anext(feed)).position == 8

    run_on(face, server.url, scenario)
