"""The requests that a transaction sends, and when it sends them."""

import uuid
from collections.abc import Iterator

import pytest

import headwater
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


def names(server: FakeServer) -> list[str]:
    return [came.name for came in server.requests if came.name != "hello"]


def test_begin_get_put_and_commit_are_two_round_trips(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            assert await tx.get("a") == 1
            tx.put("b", 2)
        assert tx.committed.commit == 8
        assert tx.view == 7

    run_on(face, server.url, scenario)
    assert names(server) == ["begin", "get", "commit"]
    # The server received three times: hello, begin with get, and commit.
    assert server.peers[0].receives == 3


def test_writes_are_sent_before_a_read_that_must_see_them(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put("a", 1)
            tx.delete("b")
            await tx.get("a")
            await tx.get("a")
            tx.put("c", 1)

    run_on(face, server.url, scenario)
    assert names(server) == ["begin", "write", "get", "get", "commit"]
    (write,) = server.named("write")
    assert [write[0] for write in write.arguments[1]] == ["put", "delete"]
    (commit,) = server.named("commit")
    assert [write[0] for write in commit.arguments[1]] == ["put"]
    assert server.peers[0].receives == 4


def test_a_transaction_that_only_writes_sends_one_request(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put("a", 1)
        assert server.named("execute")[0].arguments[0] == tx.id.bytes

    run_on(face, server.url, scenario)
    assert names(server) == ["execute"]


def test_a_transaction_without_writes_ends_without_waiting_for_an_answer(
    face: str, server: FakeServer
) -> None:
    server.on("rollback", server.HANG)

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction(read_only=True) as tx:
            await tx.get("a")
        with pytest.raises(headwater.InvalidArgument, match="wrote nothing"):
            print(tx.committed)
        async with db.transaction():
            pass

    run_on(face, server.url, scenario)
    server.wait_for("rollback")
    assert names(server) == ["begin", "get", "rollback"]
    assert server.named("begin")[0].arguments[2] is True


def test_an_exception_sends_a_rollback_and_no_writes(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as tx:
                await tx.get("a")
                tx.put("b", 1 // 0)

    run_on(face, server.url, scenario)
    server.wait_for("rollback")
    assert names(server) == ["begin", "get", "rollback"]


def test_begin_takes_the_read_view_at_once(face: str, server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        tx = db.transaction(isolation="snapshot")
        await tx.begin()
        assert tx.view == 7
        await tx.begin()
        await tx.rollback()

    run_on(face, server.url, scenario)
    assert server.named("begin")[0].arguments[1] == "snapshot"
    assert names(server).count("begin") == 1


def test_the_error_of_begin_is_raised_by_the_read_that_needed_it(
    face: str, server: FakeServer
) -> None:
    server.on("begin", headwater.TooMany("10 transactions are open"))
    server.on("get", headwater.TransactionGone("not open"), ONE)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.TooMany):
            async with db.transaction() as tx:
                await tx.get("a")
        assert await db.get("a") == 1

    run_on(face, server.url, scenario)


def test_a_connection_lost_during_the_commit_raises_commit_unknown(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.DROP)

    async def scenario(db: headwater.Database) -> None:
        tx = db.transaction()
        with pytest.raises(headwater.CommitUnknown) as caught:
            async with tx:
                await tx.get("a")
                tx.put("a", 2)
        assert caught.value.details["transaction"] == tx.id.bytes
        assert not caught.value.retryable

    run_on(face, server.url, scenario)


def test_a_connection_lost_before_the_commit_does_not_raise_commit_unknown(
    face: str, server: FakeServer
) -> None:
    server.on("get", ONE, server.DROP)

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            await tx.get("a")
            tx.put("a", 2)
            with pytest.raises(headwater.ConnectionLost):
                await tx.get("b")
            with pytest.raises(headwater.ConnectionLost):
                await tx.commit()

    run_on(face, server.url, scenario)
    assert "commit" not in names(server)


def test_a_write_that_the_client_refuses_rolls_the_transaction_back(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        tx = db.transaction()
        await tx.get("a")
        tx.put("b", 1)
        tx._writes[0][0] = "pot"
        with pytest.raises(headwater.InvalidArgument, match="pot"):
            await tx.commit()
        await db.ping()

    run_on(face, server.url, scenario)
    assert names(server) == ["begin", "get", "rollback", "ping"]


def test_a_transaction_that_has_ended_refuses_everything(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put("a", 1)
        with pytest.raises(headwater.InvalidArgument, match="over"):
            tx.put("b", 1)
        with pytest.raises(headwater.InvalidArgument, match="over"):
            tx.append("s", headwater.Event("A"))
        for wait in (tx.get("a"), tx.commit(), tx.rollback(), tx.begin()):
            with pytest.raises(headwater.InvalidArgument, match="over"):
                await wait

    run_on("blocking", server.url, scenario)


def test_a_read_only_transaction_refuses_writes_at_the_call(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.InvalidArgument, match="read-only"):
            db.transaction(read_only=True).put("a", 1)
        with pytest.raises(headwater.InvalidArgument, match="isolation"):
            db.transaction(isolation="chaos")  # type: ignore[arg-type]

    run_on("blocking", server.url, scenario)


def test_ids_are_uuids_of_version_seven_that_sort_by_time(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        ids = [db.transaction().id for _ in range(100)]
        assert len(set(ids)) == 100
        assert {(identity.version, identity.variant) for identity in ids} == {(7, uuid.RFC_4122)}
        milliseconds = [identity.int >> 80 for identity in ids]
        assert milliseconds == sorted(milliseconds)

    run_on("blocking", server.url, scenario)


def test_writes_larger_than_a_frame_are_sent_in_several_requests(
    face: str, server: FakeServer
) -> None:
    blob = bytes(7 * 1024 * 1024)

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            for number in range(4):
                tx.put(number, blob)
            with pytest.raises(headwater.TooLarge, match="transaction would have"):
                tx.put(5, blob)

    run_on(face, server.url, scenario)
    assert names(server) == ["begin", "write", "commit"]
    sent = [*server.named("write")[0].arguments[1], *server.named("commit")[0].arguments[1]]
    assert [write[0] for write in sent] == ["put"] * 4


def test_all_pages_in_a_transaction_are_read_in_it(face: str, server: FakeServer) -> None:
    key = headwater.MsgpackCodec().encode(1)
    pages = [[7, [b"\x15\x01", key], True], [7, [b"\x15\x02", key], False]]
    server.on("scan", *pages)

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            assert [item async for item in tx.scan()] == [((1,), 1), ((2,), 1)]

    run_on(face, server.url, scenario)
    first, second = server.named("scan")
    assert first.arguments[0] == second.arguments[0] != None  # noqa: E711 - an id, twice
    assert (first.arguments[3], second.arguments[3]) == (128, 512)
    assert second.arguments[1] == b"\x15\x01\0"
    assert second.arguments[-1] is None


# A call that the client refuses leaves the transaction as it was.

REFUSED = {
    "a scan with a limit that is no integer": lambda tx: tx.scan(("a",), limit=2.5).turn(),
    "a load of a name that is no valid text": lambda tx: tx.load("user-\ud800"),
    "a read of a name that is no valid text": lambda tx: tx.read("user-\ud800").turn(),
    "a scan in a direction that is no bool": lambda tx: tx.scan(("a",), reverse="yes").turn(),
    "an append of nothing": lambda tx: given(tx.append("s", [])),
    "a put of what cannot be encoded": lambda tx: given(tx.put("a", object())),
    "a put of what is too large": lambda tx: given(tx.put("a", bytes(9_000_000))),
}


async def given(result: object) -> object:
    return result


async def refused(tx: headwater.Transaction, call: str) -> None:
    with pytest.raises((headwater.InvalidArgument, headwater.TooLarge)):
        await REFUSED[call](tx)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("call", REFUSED)
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_a_refused_call_does_not_change_what_a_transaction_sends(
    face: str, server: FakeServer, call: str, begun: bool
) -> None:
    refuses = False

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            if begun:
                await tx.get("balance")
            tx.put("first", 1)
            if refuses:
                await refused(tx, call)
            tx.put("second", 2)
            if begun:
                await tx.get("balance")
            tx.put("third", 3)
            if refuses:
                await refused(tx, call)

    def sent() -> list[tuple[str, list[object]]]:
        server.requests.clear()
        run_on(face, server.url, scenario)
        # The first argument is the id of the transaction.
        return [(came.name, came.arguments[1:]) for came in server.requests]

    expected = sent()
    refuses = True
    assert sent() == expected


def test_a_transaction_whose_first_read_is_refused_begins_with_the_next_read(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put("a", 1)
            await refused(tx, "a load of a name that is no valid text")
            assert tx.view is None
            assert await tx.get("a") == 1
            assert tx.view == 7

    run_on(face, server.url, scenario)
    assert names(server) == ["begin", "write", "get", "commit"]
