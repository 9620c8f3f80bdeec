"""The conformance suites that eventsource-py ships for its ports."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from eventsource.domain.event_registry import EventRegistry
from eventsource.ports import Position
from eventsource.testing import conformance_ports as suites
from eventsource.testing.conformance_ports._fixtures import (
    ConformanceEvent,
    ConformanceReadModel,
)
from eventsource.testing.conformance_ports.stateful import StoreStateMachine
from eventsource.testing.sync_facade import SyncStoreFacade
from eventsource_headwater import (
    HeadwaterCheckpointRepository,
    HeadwaterDLQRepository,
    HeadwaterEventStore,
    HeadwaterLockManager,
    HeadwaterOutboxRepository,
    HeadwaterReadModelRepository,
    HeadwaterSnapshotStore,
)
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import headwater
from headwater.cli.server_process import ServerProcess

REGISTRY = EventRegistry()
REGISTRY.register(ConformanceEvent)


class _Store:
    @pytest.fixture
    def store(self, database: headwater.Database, space: str) -> HeadwaterEventStore:
        return HeadwaterEventStore(database, space, registry=REGISTRY)


class TestAppender(_Store, suites.AppenderConformance):
    pass


class TestStreamReader(_Store, suites.StreamReaderConformance):
    pass


class TestEventLookup(_Store, suites.EventLookupConformance):
    pass


class TestGlobalFeed(_Store, suites.GlobalFeedConformance):
    pass


class TestCategoryQuery(_Store, suites.CategoryQueryConformance):
    pass


class TestSnapshots(suites.SnapshotStoreConformance):
    @pytest.fixture
    def store(self, database: headwater.Database, space: str) -> HeadwaterSnapshotStore:
        return HeadwaterSnapshotStore(database, space)


class TestCheckpoints(suites.CheckpointRepositoryConformance):
    @pytest.fixture
    def store(self, database: headwater.Database, space: str) -> HeadwaterCheckpointRepository:
        return HeadwaterCheckpointRepository(database, space)

    def make_position(self, n: int) -> Position:
        return Position("headwater/test", (n,))


class TestDeadLetters(suites.DLQRepositoryConformance):
    @pytest.fixture
    def store(self, database: headwater.Database, space: str) -> HeadwaterDLQRepository:
        return HeadwaterDLQRepository(database, space)


class TestOutbox(suites.OutboxRepositoryConformance):
    @pytest.fixture
    def store(self, database: headwater.Database, space: str) -> HeadwaterOutboxRepository:
        return HeadwaterOutboxRepository(database, space)


class TestLocks(suites.DistributedLockConformance):
    @pytest.fixture
    async def store(
        self, database: headwater.Database, space: str
    ) -> AsyncIterator[HeadwaterLockManager]:
        manager = HeadwaterLockManager(database, space)
        yield manager
        await manager.release_all()


class TestReadModels(suites.ReadModelRepositoryConformance):
    @pytest.fixture
    def store(
        self, database: headwater.Database, space: str
    ) -> HeadwaterReadModelRepository[ConformanceReadModel]:
        return HeadwaterReadModelRepository(database, ConformanceReadModel, space)


def test_the_state_machine_of_event_stores_finds_nothing(server: ServerProcess) -> None:
    class Opened(HeadwaterEventStore):
        """A store that connects on the loop of the facade, where it is first used."""

        def __init__(self) -> None:
            super().__init__(headwater.connect(server.url), str(uuid4()), registry=REGISTRY)

        async def open(self) -> None:
            await self._db.__aenter__()

        async def close(self) -> None:
            await self._db.__aexit__(None, None, None)

    class Machine(StoreStateMachine):
        def make_store(self) -> SyncStoreFacade:
            store, loop = Opened(), asyncio.new_event_loop()
            loop.run_until_complete(store.open())
            # Its close() closes the store, then the loop.
            return SyncStoreFacade(store, lambda: loop)

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=10, stateful_step_count=15, deadline=None)
    )


def test_the_suites_are_as_large_as_they_were() -> None:
    cases = sum(
        name.startswith("test_")
        for suite in suites.__all__
        if not suite.startswith(("SnapshotConf", "SnapshotType", "ProjectionCheck", "Subscr"))
        for name in dir(getattr(suites, suite))
    )
    assert cases >= 120
