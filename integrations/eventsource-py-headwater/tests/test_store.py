"""Names, several spaces on one server, lag, and ids among writers at the same moment."""

import asyncio
from uuid import uuid4

import pytest
from eventsource.domain import StreamId
from eventsource.domain.event_registry import EventRegistry
from eventsource.domain.exceptions import DuplicateEventError, PositionForeignError
from eventsource.ports import ExpectedVersion, collect
from eventsource.testing.conformance_ports._fixtures import ConformanceEvent, make_event
from eventsource_headwater import HeadwaterCheckpointRepository, HeadwaterEventStore

import headwater

pytestmark = pytest.mark.anyio

REGISTRY = EventRegistry()
REGISTRY.register(ConformanceEvent)


def store_of(database: headwater.Database, space: str) -> HeadwaterEventStore:
    return HeadwaterEventStore(database, space, registry=REGISTRY)


@pytest.mark.parametrize("category", ["Order", "Order-Line", "a.b", "a_-", "-"])
async def test_a_category_of_any_name_comes_back(
    database: headwater.Database, space: str, category: str
) -> None:
    store = store_of(database, space)
    stream = StreamId(aggregate_id=uuid4(), category=category)
    await store.append(stream, [make_event(stream.aggregate_id)], ExpectedVersion.no_stream())
    (found,) = await collect(store.read_category(category))
    assert found.stream_id == stream
    assert await collect(store.read_category(category[:-1] + "x")) == []


async def test_spaces_do_not_see_each_other(database: headwater.Database) -> None:
    spaces = ["s", "s.s", "s-s", "s%2Ds"]
    prefix = str(uuid4()).replace("-", "")
    for space in spaces:
        store = store_of(database, prefix + space)
        stream = StreamId(aggregate_id=uuid4(), category="C")
        await store.append(stream, [make_event(stream.aggregate_id)], ExpectedVersion.any_())
    stores = [store_of(database, prefix + space) for space in spaces]
    found = [await collect(store.read_all()) for store in stores]
    assert [len(each) for each in found] == [1] * len(spaces)
    with pytest.raises(PositionForeignError):
        await collect(stores[0].read_all(found[1][0].position))


async def test_of_writers_with_one_event_id_one_succeeds(
    database: headwater.Database, space: str
) -> None:
    store = store_of(database, space)
    event = make_event(uuid4())

    async def append() -> bool:
        try:
            await store.append(StreamId(uuid4(), "C"), [event], ExpectedVersion.any_())
        except DuplicateEventError:
            return False
        return True

    assert sum(await asyncio.gather(*(append() for _ in range(8)))) == 1
    assert len(await collect(store.read_all())) == 1


async def test_lag_is_counted_from_the_newest_event_of_the_types(
    database: headwater.Database, space: str
) -> None:
    store, checkpoints = store_of(database, space), HeadwaterCheckpointRepository(database, space)
    assert await checkpoints.get_lag_metrics("p") is None
    first, second = (make_event(uuid4()) for _ in range(2))
    for event in (first, second):
        await store.append(StreamId(uuid4(), "C"), [event], ExpectedVersion.any_())
    await checkpoints.update_checkpoint("p", first.event_id, first.event_type)
    behind = await checkpoints.get_lag_metrics("p", [first.event_type])
    assert behind is not None
    assert behind.latest_event_id == str(second.event_id)
    await checkpoints.update_checkpoint("p", second.event_id, second.event_type)
    level = await checkpoints.get_lag_metrics("p")
    assert level is not None
    assert level.lag_seconds == 0
    assert level.events_processed == 2
