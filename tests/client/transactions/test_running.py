"""db.run: the function takes effect exactly once, even if connections are lost."""

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


def test_a_commit_whose_answer_was_lost_is_not_repeated_if_it_succeeded(
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


def test_a_commit_that_was_fenced_is_repeated_with_a_new_id(face: str, server: FakeServer) -> None:
    server.on("commit", server.DROP, COMMITTED)
    server.on("status", ["aborted", None])

    async def scenario(db: headwater.Database) -> None:
        tx = await db.run(increment, 1)
        assert tx.committed.commit == 8

    run_on(face, server.url, scenario)
    first, second = server.named("begin")
    assert first.arguments[0] != second.arguments[0]
    assert commits(server) == 2


def test_the_status_is_asked_again_if_that_connection_is_lost_too(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.DROP)
    server.on("status", server.DROP, headwater.ReadOnly("no"), ["committed", COMMITTED])

    async def scenario(db: headwater.Database) -> None:
        await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert len(server.named("status")) == 3


def test_a_forgotten_transaction_raises_commit_unknown(face: str, server: FakeServer) -> None:
    server.on("commit", server.DROP)
    server.on("status", ["forgotten", None])

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            await db.run(increment, 1)

    run_on(face, server.url, scenario)


def test_a_server_that_does_not_come_back_raises_commit_unknown(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.STOP)

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.CommitUnknown):
            await db.run(increment, 1, deadline=0.1)

    run_on(face, server.url, scenario)


def test_a_connection_lost_before_the_commit_starts_a_new_attempt(
    face: str, server: FakeServer
) -> None:
    server.on("get", server.DROP, b"\x01")

    async def scenario(db: headwater.Database) -> None:
        await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert not server.named("status")
    assert commits(server) == 1


def test_an_error_that_is_not_retryable_is_raised_immediately(
    face: str, server: FakeServer
) -> None:
    server.on("commit", headwater.WrongVersion("at 3"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.WrongVersion):
            await db.run(increment, 1)

    run_on(face, server.url, scenario)
    assert commits(server) == 1


def test_an_exception_of_the_application_is_raised_and_not_retried(
    face: str, server: FakeServer
) -> None:
    async def fails(tx: headwater.Transaction) -> None:
        await tx.get("a")
        raise ZeroDivisionError

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(ZeroDivisionError):
            await db.run(fails)

    run_on(face, server.url, scenario)
    assert len(server.named("begin")) == 1


def test_conflicts_are_retried_until_the_attempts_or_the_deadline_are_used_up(
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


def test_a_group_of_errors_is_retried_if_all_of_them_are_retryable(server: FakeServer) -> None:
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


def test_a_function_that_is_not_async_is_refused_and_nothing_is_committed(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.InvalidArgument, match=r"returned 'int'.* an `async def`"):
            await db.run(writes_and_returns)

    run_on(face, server.url, scenario)
    assert not commits(server)
    assert not server.named("execute")


def test_a_blocking_run_refuses_an_async_function(server: FakeServer) -> None:
    wanted = pytest.raises(headwater.InvalidArgument, match="a blocking database wants a `def`")
    with headwater.connect_blocking(server.url) as db, wanted:
        db.run(increment, 1)  # type: ignore[arg-type, unused-coroutine]
    assert not commits(server)
