"""db.run: exactly once, whatever becomes of the connection."""

from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer

COMMITTED: list[Any] = [8, 1_000_000, None, None, {}]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("get", b"\x01")
        yield server


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def increment(tx: headwater.Transaction, by: int) -> headwater.Transaction:
    tx.put("a", await tx.get("a") + by)
    return tx


def commits(server: FakeServer) -> int:
    return len(server.named("commit"))


def test_a_commit_that_turns_out_to_have_happened_is_not_repeated(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.DROP)
    server.on("status", ["committed", COMMITTED])

    async def scenario(db: headwater.Database) -> None:
        tx = await db.run(increment, 1)
        assert tx.committed.commit == 8

    run_on(face, server.url, scenario)
    (status,) = server.named("status")
    assert status.arguments == [server.named("begin")[0].arguments[0], True]
    assert status.connection == 1
    assert commits(server) == 1


def test_a_commit_that_was_fenced_off_is_done_again(face: str, server: FakeServer) -> None:
    server.on("commit", server.DROP, COMMITTED)
    server.on("status", ["aborted", None])

    async def scenario(db: headwater.Database) -> None:
        tx = await db.run(increment, 1)
        assert tx.committed.commit == 8

    run_on(face, server.url, scenario)
    first, second = server.named("begin")
    assert first.arguments[0] != second.arguments[0]
    assert commits(server) == 2


def test_the_question_is_asked_again_if_its_connection_is_lost_too(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.DROP)
    server.on("status", server.DROP, headwater.ReadOnly("no"), ["committed", COMMITTED])

    async def scenario(db: headwater.Database) -> None:
        await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert len(server.named("status")) == 3


def test_a_fate_that_nobody_knows_stays_unknown(face: str, server: FakeServer) -> None:
    server.on("commit", server.DROP)
    server.on("status", ["forgotten", None])

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            await db.run(increment, 1)

    run_on(face, server.url, scenario)


def test_a_server_that_stays_away_leaves_it_unknown(face: str, server: FakeServer) -> None:
    server.on("commit", server.STOP)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            await db.run(increment, 1, deadline=0.1)

    run_on(face, server.url, scenario)


def test_a_connection_lost_while_reading_only_begins_again(face: str, server: FakeServer) -> None:
    server.on("get", server.DROP, b"\x01")

    async def scenario(db: headwater.Database) -> None:
        await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert not server.named("status")
    assert commits(server) == 1


def test_an_error_that_stays_an_error_is_raised_at_once(face: str, server: FakeServer) -> None:
    server.on("commit", headwater.WrongVersion("at 3"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.WrongVersion):
            await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert commits(server) == 1


def test_a_users_exception_is_raised_and_not_retried(face: str, server: FakeServer) -> None:
    async def fails(tx: headwater.Transaction) -> None:
        await tx.get("a")
        raise ZeroDivisionError

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(ZeroDivisionError):
            await db.run(fails)

    run_on(face, server.url, scenario)
    assert len(server.named("begin")) == 1


def test_conflicts_are_retried_and_attempts_and_deadline_end_it(
    face: str, server: FakeServer
) -> None:
    server.on("commit", headwater.Conflict("a"), headwater.Conflict("b"), COMMITTED)

    async def scenario(db: headwater.Database) -> None:
        await db.run(increment, 1)
        assert commits(server) == 3
        server.on("commit", headwater.Conflict("a"))
        with pytest.raises(headwater.Conflict):
            await db.run(increment, 1, attempts=2)
        assert commits(server) == 5
        with pytest.raises(headwater.Conflict):
            await db.run(increment, 1, deadline=0)
        assert commits(server) == 6

    run_on(face, server.url, scenario)


def test_a_group_of_errors_is_retried_if_all_of_them_can_be(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        errors: list[Exception] = [headwater.Conflict("a"), ValueError("b")]
        calls = 0

        async def grouped(tx: headwater.Transaction) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ExceptionGroup("one", errors[:1])
            raise ExceptionGroup("two", errors)

        with pytest.raises(ExceptionGroup, match="two"):
            await db.run(grouped)
        assert calls == 2

    run_on("trio", server.url, scenario)


def writes_and_returns(tx: Any) -> Any:
    tx.put("a", 1)
    return 5


def test_a_function_that_cannot_be_awaited_is_refused_and_nothing_is_committed(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.InvalidArgument, match=r"returned 'int'.* an `async def`"):
            await db.run(writes_and_returns)

    run_on(face, server.url, scenario)
    assert not commits(server)
    assert not server.named("execute")


def test_a_blocking_run_refuses_a_coroutine_that_nobody_would_await(server: FakeServer) -> None:
    wanted = pytest.raises(headwater.InvalidArgument, match="a blocking database wants a `def`")
    with headwater.connect_blocking(server.url) as db, wanted:
        db.run(increment, 1)  # type: ignore[unused-coroutine]
    assert not commits(server)
