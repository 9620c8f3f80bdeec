"""The channel: requests whose connection is lost, and reconnecting."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from headwater.transport.backoff import Backoff
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer

ONE = b"\x01"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("get", ONE)
        yield server


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_refused_connection_fails_at_once_and_names_the_address(face: str) -> None:
    port = unused_port()

    async def scenario(db: headwater.Database) -> None:
        raise AssertionError

    with pytest.raises(headwater.ConnectionLost, match=f"127.0.0.1:{port}: Connection refused"):
        run_on(face, f"headwater://127.0.0.1:{port}", scenario, retry_timeout=0)


def test_the_error_of_an_unknown_host_names_it(face: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        raise AssertionError

    with pytest.raises(headwater.ConnectionLost, match=r"cannot connect to nowhere\.invalid:4323"):
        run_on(face, "headwater://nowhere.invalid", scenario, retry_timeout=0)


def test_a_server_that_does_not_answer_hello_is_given_up(face: str, server: FakeServer) -> None:
    server.on("hello", server.HANG)

    async def scenario(db: headwater.Database) -> None:
        raise AssertionError

    with pytest.raises(headwater.ConnectionLost, match=r"within 0.05 s"):
        run_on(face, server.url, scenario, connect_timeout=0.05, retry_timeout=0)


def test_a_read_is_sent_once_more_on_a_new_connection(face: str, server: FakeServer) -> None:
    server.on("get", server.DROP, ONE)

    async def scenario(db: headwater.Database) -> None:
        assert await db.get("a") == 1

    run_on(face, server.url, scenario)
    assert [came.connection for came in server.named("get")] == [0, 1]


def test_a_read_without_time_to_retry_still_survives_one_dead_connection(
    face: str, server: FakeServer
) -> None:
    server.on("get", server.DROP, server.DROP, server.DROP, ONE)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.ConnectionLost):
            await db.get("a")
        assert await db.get("a") == 1

    run_on(face, server.url, scenario, retry_timeout=0)


def test_a_read_is_sent_again_until_it_is_answered(face: str, server: FakeServer) -> None:
    going = headwater.ShuttingDown("going down")
    server.on("get", server.DROP, server.DROP, server.DROP, going, server.DROP, ONE)

    async def scenario(db: headwater.Database) -> None:
        assert await db.get("a") == 1

    run_on(face, server.url, scenario)


def test_a_write_is_sent_again_with_the_same_id_until_it_is_answered(
    face: str, server: FakeServer
) -> None:
    answer: list[Any] = [[8, 1_000_000, None, None, {}], []]
    going = headwater.ShuttingDown("going down")
    server.on("execute", server.DROP, server.DROP, going, answer)

    async def scenario(db: headwater.Database) -> None:
        assert (await db.put("a", 1)).commit == 8

    run_on(face, server.url, scenario)
    sent = server.named("execute")
    assert len(sent) == 4
    assert len({came.arguments[0] for came in sent}) == 1


def test_a_refusal_is_raised_only_after_the_lost_request_was_fenced(
    face: str, server: FakeServer
) -> None:
    # The request whose connection was lost may still reach the server, which may be writable then.
    server.on("execute", server.DROP, headwater.ReadOnly("full"))
    server.on("status", ["aborted", None])

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.ReadOnly):
            await db.put("a", 1)

    run_on(face, server.url, scenario)
    (sent, _) = server.named("execute")
    (asked,) = server.named("status")
    assert asked.arguments == [sent.arguments[0], True]


def test_a_refusal_is_ignored_if_the_lost_request_had_committed(
    face: str, server: FakeServer
) -> None:
    committed: list[Any] = [8, 1_000_000, None, None, {}]
    server.on("execute", server.DROP, headwater.ReadOnly("full"), [committed, []])
    server.on("status", ["committed", committed])

    async def scenario(db: headwater.Database) -> None:
        assert (await db.put("a", 1)).commit == 8

    run_on(face, server.url, scenario)


def test_a_refusal_raises_commit_unknown_if_the_lost_request_cannot_be_fenced(
    face: str, server: FakeServer
) -> None:
    server.on("execute", server.DROP, headwater.ReadOnly("full"))
    server.on("status", headwater.ReadOnly("full"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            await db.put("a", 1)

    run_on(face, server.url, scenario, retry_timeout=0.3)


@pytest.mark.parametrize("refused", ["a refusal", "a commit whose reads are refused"])
def test_a_refusal_is_raised_if_no_fence_can_change_it(
    face: str, server: FakeServer, refused: str
) -> None:
    # A user who may write nothing may not fence. What was committed before cannot be fenced, and
    # gets the same refusal each time.
    details: dict[str, Any] = {"right": "read:keys"}
    if refused != "a refusal":
        details["commit"] = 8
    server.on("execute", server.DROP, headwater.PermissionDenied("no", details=details))
    server.on("status", headwater.PermissionDenied("no", details={"right": "write"}))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.PermissionDenied) as caught:
            await db.put("a", 1)
        assert caught.value.details == details

    run_on(face, server.url, scenario, retry_timeout=5)
    assert len(server.named("execute")) == 2
    assert len(server.named("status")) == (refused == "a refusal")


def test_a_write_that_is_never_answered_raises_commit_unknown(
    face: str, server: FakeServer
) -> None:
    server.on("execute", server.DROP)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown) as caught:
            await db.append("a", headwater.Event("A"))
        assert caught.value.transaction == server.named("execute")[0].arguments[0]

    run_on(face, server.url, scenario, retry_timeout=0.2)
    assert len(server.named("execute")) > 1


def test_a_write_that_was_never_sent_raises_connection_lost(face: str) -> None:
    with FakeServer() as server:

        async def scenario(db: headwater.Database) -> None:
            server.stop()
            db._channel._connections[0].close()
            with pytest.raises(headwater.ConnectionLost):
                await db.put("a", 1)

        run_on(face, server.url, scenario, retry_timeout=0.1)


def test_an_error_of_the_server_is_not_retried(face: str, server: FakeServer) -> None:
    server.on("execute", headwater.ReadOnly("the disk is full"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.ReadOnly, match="the disk is full"):
            await db.put("a", 1)

    run_on(face, server.url, scenario)
    assert len(server.named("execute")) == 1


def test_a_request_without_an_answer_times_out(face: str, server: FakeServer) -> None:
    server.on("get", server.HANG)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.TimedOut):
            await db.get("a")

    run_on(face, server.url, scenario, request_timeout=0.1)


def test_a_commit_without_an_answer_raises_commit_unknown(face: str, server: FakeServer) -> None:
    server.on("commit", server.HANG)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            async with db.transaction() as tx:
                await tx.get("a")
                tx.put("a", 1)

    run_on(face, server.url, scenario, request_timeout=0.1)


def test_the_error_of_a_closed_database_says_that_it_was_closed(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.close()
        with pytest.raises(headwater.ConnectionLost, match="closed by close") as caught:
            await db.get("a")
        assert not caught.value.retryable
        with pytest.raises(headwater.ConnectionLost, match="closed by close"):
            await db.put("a", 1)

    run_on(face, server.url, scenario)


def test_the_reason_of_a_server_that_closes_the_connection_is_in_the_error(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        (peer,) = server.peers
        peer.protocol.close()
        peer.send(peer.protocol.error(0, headwater.ShuttingDown("a new version comes")))
        with pytest.raises(headwater.ConnectionLost, match="a new version comes"):
            async with db.transaction() as tx:
                await tx.get("a")

    run_on(face, server.url, scenario)


def test_a_malformed_answer_ends_the_connection(face: str, server: FakeServer) -> None:
    server.on("ping", bytearray(b"\0\0\0\x01\xc1"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.ConnectionLost, match="closed the connection"):
            connection = await db._channel.connection()
            await connection.ask("ping")
        assert await db.get("a") == 1

    run_on(face, server.url, scenario)


def test_pauses_grow_and_are_random() -> None:
    backoff = Backoff(0.1, 0.4)
    taken = [backoff.next() for _ in range(5)]
    for pause, longest in zip(taken, (0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert longest / 2 <= pause <= longest
    backoff.reset()
    assert backoff.next() <= 0.1


def test_a_client_that_does_not_wait_for_a_server_fails_at_once(face: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        raise AssertionError

    with pytest.raises(headwater.ConnectionLost, match="Connection refused"):
        run_on(face, f"headwater://127.0.0.1:{unused_port()}", scenario, wait_for_server=False)
