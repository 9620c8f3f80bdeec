"""A blocking connection: one deadline for an answer, pings, and threads beside each other."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from headwater_protocol.connection import Request
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer, Peer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("get", b"\x01")
        yield server


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_answer_that_comes_a_byte_at_a_time_times_out_as_a_whole(
    face: str, server: FakeServer
) -> None:
    ended = threading.Event()

    def answer(request: Request) -> object:
        peer = server.peers[-1]
        threading.Thread(target=drip, args=(peer, request.request_id), daemon=True).start()
        return server.HANG

    def drip(peer: Peer, request_id: int) -> None:
        for byte in peer.protocol.answer(request_id, b"\x01" * 100):
            ended.wait(0.05)
            peer.send(bytes([byte]))

    server.on("get", answer)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.TimedOut):
            await db.get("a")

    run_on(face, server.url, scenario, request_timeout=0.3, retry_timeout=0)
    ended.set()


@pytest.mark.parametrize("kind", ["subscription", "key feed", "membership"])
def test_a_feed_notices_that_its_server_is_gone(face: str, kind: str, server: FakeServer) -> None:
    operation = {
        "subscription": "subscribe",
        "key feed": "subscribe_keys",
        "membership": "group_join",
    }[kind]
    # The first connection dies without a word. The second one works.
    server.on("ping", server.HANG, [7, 1_000_000])
    for name in ("subscribe_keys", "group_join", "group_leave"):
        server.on(name, None)

    def push_later() -> None:
        server.wait_for(operation, 2)
        peer = server.peers[-1]
        with peer.in_order:
            (feed,) = [number for number, name in peer.protocol.in_flight.items() if name != "ping"]
            pushed: list[Any] = ["caught_up", 7]
            if kind == "membership":
                event = [7, "a", 1, 7, 1_000_000, b"", "A", 0, [], b"\xc0", b"\xc0"]
                pushed = ["deliveries", [[1, 1, event]]]
            peer.push(feed, pushed)

    thread = threading.Thread(target=push_later)
    thread.start()

    async def scenario(db: headwater.Database) -> None:
        feeds: dict[str, Any] = {
            "subscription": db.subscribe(),
            "key feed": db.subscribe(keys=("a",)),
            "membership": db.join("group"),
        }
        async with feeds[kind] as feed:
            item = await feed.__anext__()
            assert item.position == 7

    run_on(face, server.url, scenario, request_timeout=0.2)
    thread.join(10)
    assert len(server.named("ping")) >= 1


def test_a_slow_request_of_one_thread_does_not_hold_up_another(server: FakeServer) -> None:
    def answer(request: Request) -> object:
        return server.HANG if request.arguments[1] == b"\x14" else b"\x05"

    server.on("get", answer)
    db = headwater.connect_blocking(server.url).__enter__()

    def wait() -> None:
        with pytest.raises(headwater.ConnectionLost):
            db.get(0)

    stuck = threading.Thread(target=wait)
    stuck.start()
    server.wait_for("get", 1)
    assert db.get(5) == 5
    assert len(server.peers) == 2
    db.close()
    stuck.join(10)
    assert not stuck.is_alive()


def test_a_database_of_one_thread_has_one_connection(server: FakeServer) -> None:
    with headwater.connect_blocking(server.url) as db:
        for _ in range(20):
            db.get("a")
            db.put("a", 1)
            with db.transaction() as tx:
                tx.get("a")
                tx.put("a", 1)
        assert len(server.peers) == 1


def test_a_transaction_keeps_its_connection_to_itself(server: FakeServer) -> None:
    with headwater.connect_blocking(server.url) as db:
        with db.transaction() as tx:
            tx.get("a")
            db.get("b")
            tx.put("a", 1)
        (in_transaction, outside) = server.named("get")
        assert in_transaction.connection != outside.connection
        assert server.named("commit")[0].connection == in_transaction.connection


def test_threads_share_connections_if_the_server_has_no_room_for_more(server: FakeServer) -> None:
    hello: list[Any] = [1, "fake", [], [], b"0" * 16]
    server.on("hello", hello, headwater.TooMany("connections"))
    release = threading.Event()

    def answer(request: Request) -> object:
        if request.arguments[1] == b"\x14":
            peer = server.peers[0]
            threading.Thread(target=later, args=(peer, request.request_id), daemon=True).start()
            return server.HANG
        return b"\x05"

    def later(peer: Peer, request_id: int) -> None:
        release.wait(10)
        with peer.in_order:
            peer.send(peer.protocol.answer(request_id, b"\x00"))

    server.on("get", answer)
    with headwater.connect_blocking(server.url) as db:
        found: list[Any] = []
        first = threading.Thread(target=lambda: found.append(db.get(0)))
        first.start()
        server.wait_for("get", 1)
        second = threading.Thread(target=lambda: found.append(db.get(5)))
        second.start()
        server.wait_for("hello", 2)
        release.set()
        first.join(10)
        second.join(10)
        assert sorted(found) == [0, 5]
