"""close() ends every wait, from any task or thread, and says what is known of a commit."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio
import uvloop

import headwater
from headwater.database import Database
from headwater.transport.stepping import step
from tests.client.faces import FACES
from tests.client.fake_server import FakeServer

Work = Callable[[Database], Coroutine[Any, Any, Any]]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("get", b"\x01")
        yield server


async def outcome(work: Awaitable[Any]) -> Any:
    """What *work* returns, or the exception that it raises."""
    try:
        return await work
    except (headwater.HeadwaterError, StopAsyncIteration) as error:
        return error


def both(
    face: str, url: str, work: Work, ready: Callable[[], Any], end: Work, **options: Any
) -> Any:
    """The outcome of *work*. Once *ready* returns, *end* runs in another task or thread."""

    async def on_asyncio() -> Any:
        async with headwater.connect(url, **options) as db:
            task = asyncio.ensure_future(outcome(work(db)))
            await asyncio.to_thread(ready)
            await end(db)
            return await asyncio.wait_for(task, 10)

    async def on_trio() -> Any:
        found = []
        async with headwater.connect(url, **options) as db, trio.open_nursery() as nursery:

            async def run() -> None:
                with trio.fail_after(10):
                    found.append(await outcome(work(db)))

            nursery.start_soon(run)
            await trio.to_thread.run_sync(ready)
            await end(db)
        return found[0]

    if face == "trio":
        return trio.run(on_trio)
    if face == "asyncio":
        return asyncio.run(on_asyncio())
    if face == "uvloop":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(on_asyncio())
    found = []
    with headwater.connect_blocking(url, **options) as blocking:
        thread = threading.Thread(
            target=lambda: found.append(step(outcome(work(blocking._core)))), daemon=True
        )
        thread.start()
        ready()
        step(end(blocking._core))
        thread.join(10)
    return found[0]


async def close(db: Database) -> None:
    await db.close()


def test_a_read_that_waits_is_told_that_the_database_was_closed(
    face: str, server: FakeServer
) -> None:
    server.on("get", server.HANG)
    error = both(face, server.url, lambda db: db.get("a"), lambda: server.wait_for("get"), close)
    assert type(error) is headwater.ConnectionLost
    assert "closed by close()" in str(error)
    assert not error.retryable


def test_a_write_that_was_sent_is_unknown_and_carries_its_id(face: str, server: FakeServer) -> None:
    server.on("execute", server.HANG)
    error = both(
        face, server.url, lambda db: db.put("a", 1), lambda: server.wait_for("execute"), close
    )
    assert type(error) is headwater.CommitUnknown
    assert error.transaction == server.named("execute")[0].arguments[0]


def test_a_commit_that_was_sent_is_unknown_and_carries_its_id(
    face: str, server: FakeServer
) -> None:
    server.on("commit", server.HANG)

    async def work(db: Database) -> None:
        async with db.transaction() as tx:
            await tx.get("a")
            tx.put("a", 1)

    error = both(face, server.url, work, lambda: server.wait_for("commit"), close)
    assert type(error) is headwater.CommitUnknown
    assert error.transaction == server.named("commit")[0].arguments[0]


def test_a_subscription_that_waits_is_told(face: str, server: FakeServer) -> None:
    async def work(db: Database) -> Any:
        async with db.subscribe() as feed:
            return await feed.__anext__()

    error = both(face, server.url, work, lambda: server.wait_for("subscribe"), close)
    assert type(error) is headwater.ConnectionLost


@pytest.mark.parametrize("waits", ["for news", "to reconnect"])
def test_a_closed_subscription_stops_iterating(face: str, waits: str, server: FakeServer) -> None:
    opened = threading.Event()
    feeds: list[Any] = []

    async def work(db: Database) -> Any:
        feeds.append(db.subscribe())
        async with feeds[0]:
            opened.set()
            return await feeds[0].__anext__()

    def ready() -> None:
        assert opened.wait(10)
        if waits == "to reconnect":
            server.stop()

    async def end(_db: Database) -> None:
        await feeds[0].close()

    assert isinstance(both(face, server.url, work, ready, end), StopAsyncIteration)


@pytest.mark.parametrize("asked", ["get", "put"])
def test_what_waits_for_a_server_ends(face: str, asked: str) -> None:
    with FakeServer() as server:
        begun = threading.Event()

        async def work(db: Database) -> Any:
            server.stop()
            for connection in db._channel._connections:
                connection.close()
            begun.set()
            return await (db.get("a") if asked == "get" else db.put("a", 1))

        error = both(face, server.url, work, lambda: begun.wait(10), close)
        assert type(error) is headwater.ConnectionLost
        assert not error.retryable


@pytest.mark.parametrize("name", ["execute", "commit"])
def test_a_cancelled_commit_carries_its_id(name: str, server: FakeServer) -> None:
    server.on(name, server.HANG)

    async def work(db: Database) -> None:
        async with db.transaction() as tx:
            if name == "commit":
                await tx.get("a")
            tx.put("a", 1)

    async def on_asyncio() -> None:
        async with headwater.connect(server.url) as db:
            task = asyncio.ensure_future(work(db))
            await asyncio.to_thread(server.wait_for, name)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.transaction == server.named(name)[0].arguments[0]  # type: ignore[attr-defined]
            assert "db.status(" in caught.value.__notes__[0]

    async def on_trio() -> None:
        async with headwater.connect(server.url) as db:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def run() -> None:
                        with pytest.raises(trio.Cancelled) as caught:
                            await work(db)
                        sent = server.named(name)[-1].arguments[0]
                        assert caught.value.transaction == sent  # type: ignore[attr-defined]
                        raise caught.value

                    nursery.start_soon(run)
                    await trio.to_thread.run_sync(server.wait_for, name, 2)
                    scope.cancel()
            assert scope.cancelled_caught

    asyncio.run(on_asyncio())
    trio.run(on_trio)


def test_a_wait_in_another_thread_never_passes_for_an_answer(server: FakeServer) -> None:
    for _ in range(50):
        db = headwater.connect_blocking(server.url).__enter__()
        found: list[Any] = []

        def read(db: headwater.BlockingDatabase = db, found: list[Any] = found) -> None:
            try:
                while (value := db.get("a", default="absent")) == 1:
                    pass
                found.append(value)
            except headwater.ConnectionLost as error:
                found.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        server.wait_for("get", len(server.named("get")) + 3)
        db.close()
        for thread in threads:
            thread.join(10)
        assert [type(each) for each in found] == [headwater.ConnectionLost] * 3
