"""Every exception of a handler counts as a failed attempt, and each event gets all its attempts."""

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import run_on

numbers = itertools.count(random.randrange(1 << 40))


@pytest.fixture(params=["trio", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name() -> str:
    return f"f{next(numbers)}"


class OfAnotherKind(BaseException):
    """An exception that `except Exception` does not catch."""


class Silent(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


RAISED: dict[str, Callable[[], BaseException]] = {
    "an ordinary error": lambda: ValueError("broken"),
    "a lost connection of something else": lambda: headwater.ConnectionLost("elsewhere"),
    "an unknown commit of something else": lambda: headwater.CommitUnknown("elsewhere"),
    "a projection that is behind": lambda: headwater.ProjectionBehind("elsewhere"),
    "a server that is read-only": lambda: headwater.ReadOnly("elsewhere"),
    "a history that is gone": lambda: headwater.HistoryGone("elsewhere"),
    "a transaction that is gone": lambda: headwater.TransactionGone("elsewhere"),
    "a group of errors": lambda: ExceptionGroup("two", [ValueError("one"), KeyError("two")]),
    "a group of retryable errors": lambda: ExceptionGroup("one", [headwater.Conflict("x")]),
    "a cancellation that nobody asked for": asyncio.CancelledError,
    "an exception beside Exception": lambda: OfAnotherKind("odd"),
    "the end of an iteration": StopAsyncIteration,
    "a text with a lone surrogate": lambda: ValueError("\udcff"),
    "an error that cannot be shown": Silent,
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("raised", RAISED)
def test_any_exception_of_a_handler_parks_its_stream_and_no_other(
    face: str,
    raised: str,
    batched: bool,
    name: str,
    real_server: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Test processes send captured log lines to each other, and cannot send a lone surrogate.
    monkeypatch.setattr(logging.getLogger("headwater.projections"), "propagate", False)

    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=2, batched=batched)
        async def handler(tx: headwater.ProjectionTransaction, given: Any) -> None:
            for event in given if batched else [given]:
                if event.data == "bad":
                    raise RAISED[raised]()
                tx.model.add(event.stream, 1)

        await db.append(f"{name}-1", [Event("A", "good"), Event("A", "bad"), Event("A", "good")])
        done = await db.append(f"{name}-2", Event("A", "good"))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
            (parked,) = await db.projections.parked(name)
        assert (parked.stream, parked.version, parked.attempts) == (f"{name}-1", 2, 2)
        assert parked.reason
        assert await db.model(name).get(f"{name}-1") == 1
        assert await db.model(name).get(f"{name}-2") == 1

    run_on(face, real_server.url, scenario)


def test_a_cancelled_task_of_a_handler_is_a_failure_of_its_event(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if event.data == "bad":
                helper = asyncio.create_task(asyncio.sleep(60))
                helper.cancel()
                await helper
            tx.model.add("handled", 1)

        await db.append(f"{name}-1", Event("A", "bad"))
        done = await db.append(f"{name}-2", Event("A", "good"))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
        assert [one.stream for one in await db.projections.parked(name)] == [f"{name}-1"]
        assert await db.model(name).get("handled") == 1

    run_on("asyncio", real_server.url, scenario)


@pytest.mark.parametrize("beside", [0, 1, 7])
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_an_event_gets_exactly_its_number_of_attempts(
    attempts: int, beside: int, name: str, real_server: ServerProcess
) -> None:
    """If other events were in the same transaction, an event used to get one more attempt."""

    async def scenario(db: headwater.Database) -> None:
        tried: Counter[int] = Counter()

        @db.projection(name, category=name, attempts=attempts)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            tried[event.data] += 1
            if event.data == 0:
                raise ValueError("broken")

        # One transaction has them all: the failing event in the middle.
        batch = db.batch()
        for number in range(-beside, beside + 1):
            batch.append(f"{name}-{number % 5}", Event("A", number))
        done = await db.execute(batch)
        async with db.run_projections():
            await db.wait_for(name, done.committed.last_position or 0)
        assert tried[0] == attempts
        (parked,) = await db.projections.parked(name)
        assert parked.attempts == attempts

        assert [one.attempts for one in await db.projections.retry(name)] == [attempts + 1]
        assert tried[0] == attempts + 1

    run_on("trio", real_server.url, scenario)


def test_each_failure_is_logged_with_its_event(
    name: str, real_server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(db: headwater.Database) -> int:
        @db.projection(name, category=name, attempts=2)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            raise ValueError("broken")

        done = await db.append(f"{name}-1", Event("Opened"))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
        return done.last_position or 0

    with caplog.at_level(logging.WARNING, "headwater.projections"):
        position = run_on("trio", real_server.url, scenario)
    told = [record.getMessage() for record in caplog.records]
    event = f"event 1 of stream {name}-1, type Opened, at position {position}"
    assert told == [
        f"projection {name}: {event} failed: ValueError: broken; {outcome}"
        for outcome in ("attempt 1 of 2", f"attempt 2 of 2; stream {name}-1 is parked")
    ]
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("index", [0, 1])
def test_a_transaction_that_ends_before_its_handler_counts_as_a_failure(
    index: int, name: str, real_server: ServerProcess
) -> None:
    """The server ends idle transactions. A handler that was too slow used to be called for ever."""

    async def scenario(db: headwater.Database) -> None:
        tried: Counter[int] = Counter()

        @db.projection(name, category=name, attempts=3)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            tried[event.data] += 1
            tx.model.add(event.stream, 1)
            if event.data == index:
                # Roll the transaction back, like the server does after it was idle for too long.
                connection = await db._host().channel.connection()
                await connection.ask("rollback", tx.id.bytes)

        batch = db.batch()
        for number in range(3):
            batch.append(f"{name}-{number}", Event("A", number))
        done = await db.execute(batch)
        async with db.run_projections():
            await db.wait_for(name, done.committed.last_position or 0)
        (parked,) = await db.projections.parked(name)
        assert (parked.stream, parked.attempts) == (f"{name}-{index}", 3)
        assert parked.reason.startswith("TransactionGone")
        assert tried[index] <= 3 + 2, "alone three times; in the transactions of all and of half"
        assert await db.model(name).get(f"{name}-2") == 1

    run_on("trio", real_server.url, scenario)


def test_a_stream_stays_parked_at_its_first_event_that_failed(
    face: str, name: str, real_server: ServerProcess
) -> None:
    # A later event of the stream had failed before, in a transaction that was repeated without it.
    # When its turn came, it was parked in place of the first one, and the events between the two
    # were missing in the model for good.
    failing = [3]

    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if event.version in failing:
                failing[:] = [1] if event.version == 3 else failing
                raise ValueError("broken")
            tx.model.put((event.version,), event.data)

        done = await db.append(f"{name}-1", [Event("A", number) for number in range(1, 6)])
        async with db.run_projections():
            await db.wait_for(name, done)
        [parked] = await db.projections.parked(name)
        assert (parked.version, parked.held) == (1, 4)
        failing.clear()
        assert await db.projections.retry(name) == []
        model = [item async for item in db.model(name).scan()]
        assert model == [((number,), number) for number in range(1, 6)]

    run_on(face, real_server.url, scenario)
