"""Projections without an event loop."""

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess

numbers = itertools.count(random.randrange(1 << 40))


@pytest.fixture
def name() -> str:
    return f"b{next(numbers)}"


@pytest.fixture
def db(real_server: ServerProcess) -> Iterator[headwater.BlockingDatabase]:
    with headwater.connect_blocking(real_server.url) as db:
        yield db


def count(tx: headwater.BlockingProjectionTransaction, event: headwater.RecordedEvent) -> None:
    tx.model.put("total", tx.model.get("total", 0) + event.data)
    tx.model.put(("n", event.data), [key for key, _ in tx.model.scan("n", limit=1)])


def fill(db: headwater.BlockingDatabase, category: str, size: int) -> int:
    position = 0
    for number in range(1, size + 1):
        done = db.append(f"{category}-{number % 3}", Event("Counted", number))
        position = done.last_position or 0
    return position


def test_a_model_follows_the_events_in_a_thread(db: headwater.BlockingDatabase, name: str) -> None:
    db.projection(name, category=name)(count)
    before = threading.active_count()
    for _ in range(2):
        with db.run_projections():
            db.wait_for(name, fill(db, name, 10))
        assert threading.active_count() == before
    model = db.model(name)
    assert model.get("total") == 110
    assert [key for key, _ in model.scan("n", limit=2)] == [("n", 1), ("n", 2)]
    assert model.current() == db.projection_status(name).build == 1
    assert name in db.projections.names()


def test_an_event_that_fails_parks_its_stream(db: headwater.BlockingDatabase, name: str) -> None:
    broken = {4}

    @db.projection(name, category=name, attempts=1)
    def counting(tx: Any, event: Any) -> None:
        if event.data in broken:
            raise ValueError(event.data)
        count(tx, event)

    with db.run_projections():
        db.wait_for(name, fill(db, name, 9))
        (parked,) = db.projections.parked(name)
        assert (parked.stream, parked.held) == (f"{name}-1", 1)
        assert db.projections.retry(name) == [db.projections.parked(name)[0]]
        assert db.projections.skip(name, f"{name}-1") == []
        assert db.model(name).get("total") == 45 - 4
        broken.clear()
        db.projections.rebuild(name)
        # The event that was skipped stays out.
        assert db.model(name).get("total") == 45 - 4
    db.projections.remove(name)
    assert name not in db.projections.names()


def test_a_permanent_error_ends_the_wait_and_the_block(
    db: headwater.BlockingDatabase, real_server: ServerProcess, name: str
) -> None:
    db.projection(name, category=name)(count)
    with db.run_projections() as running:
        db.wait_for(name, fill(db, name, 1))
        running.wait(timeout=0)
    with headwater.connect_blocking(real_server.url) as other:
        other.projection(name, category="another")(count)
        with (
            pytest.raises(headwater.InvalidArgument, match="give it a higher version="),
            other.run_projections() as running,
        ):
            running.wait()


def test_an_async_handler_is_refused_by_the_blocking_face(
    db: headwater.BlockingDatabase, name: str
) -> None:
    async def waits(tx: Any, event: Any) -> None: ...

    with pytest.raises(headwater.InvalidArgument, match="must be a `def`"):
        db.projection(name)(waits)
    with pytest.raises(headwater.ProjectionBehind):
        db.wait_for(name, 1, timeout=0.01)
