"""The test cases that the library ships for persistence modules.

They want a database in which nothing was written, so each test has a server of its own.
"""

import os
from typing import Any, ClassVar
from unittest import TestCase

import pytest
from eventsourcing.dcb.tests import DCBRecorderTestCase
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    ProcessRecorder,
    Tracking,
    TrackingRecorder,
)
from eventsourcing.tests.application import ApplicationTestCase, ExampleApplicationTestCase
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    InfrastructureFactoryTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)
from eventsourcing.tests.projection import (
    AggregateEventCountersProjectionTestCase,
    EventCountersView,
    EventCountersViewTestCase,
    EventSourcedProjectionTestCase,
    TaggedDecisionCountersProjectionTestCase,
)
from eventsourcing.utils import Environment, get_topic
from eventsourcing_headwater import (
    HeadwaterAggregateRecorder,
    HeadwaterApplicationRecorder,
    HeadwaterDCBRecorder,
    HeadwaterFactory,
    HeadwaterProcessRecorder,
    HeadwaterTrackingRecorder,
)

from headwater.cli.server_process import ServerProcess

MODULE = "eventsourcing_headwater"


class CountersView(HeadwaterTrackingRecorder, EventCountersView):
    """The view of the library's projection tests: two counters, counted with the tracking."""

    def _count(self, name: str) -> int:
        with self.datastore.database() as database:
            return int(database.get((self.category, name), b"0"))

    def _increment(self, name: str, tracking: Tracking) -> None:
        count = self._count(name)
        self.insert_with_tracking(
            tracking, lambda batch: batch.put((self.category, name), b"%d" % (count + 1))
        )

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)


@pytest.mark.usefixtures("new_server")
class OnHeadwater(TestCase):
    """Closes the factories that a test made."""

    server: ServerProcess

    def connect(self) -> HeadwaterFactory:
        factory = HeadwaterFactory(self.environment("application"))
        self.addCleanup(factory.close)
        return factory

    def environment(self, name: str) -> Environment:
        settings = {"PERSISTENCE_MODULE": MODULE, "HEADWATER_URL": self.server.url}
        return Environment(name, settings)


class TestAggregateRecorder(OnHeadwater, AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return self.connect().aggregate_recorder()


class TestApplicationRecorder(OnHeadwater, ApplicationRecorderTestCase[Any]):
    def create_recorder(self) -> ApplicationRecorder:
        return self.connect().application_recorder()


class TestTrackingRecorder(OnHeadwater, TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return self.connect().tracking_recorder()


class TestProcessRecorder(OnHeadwater, ProcessRecorderTestCase):
    def create_recorder(self) -> ProcessRecorder:
        return self.connect().process_recorder()


class TestNonInterleaving(OnHeadwater, NonInterleavingNotificationIDsBaseCase):
    insert_num = 1000

    def create_recorder(self) -> ApplicationRecorder:
        return self.connect().application_recorder()


class TestFactory(OnHeadwater, InfrastructureFactoryTestCase[HeadwaterFactory]):
    def setUp(self) -> None:
        self.env = self.environment("TestCase")
        super().setUp()

    def expected_factory_class(self) -> type[HeadwaterFactory]:
        return HeadwaterFactory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return HeadwaterAggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return HeadwaterApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return HeadwaterTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return CountersView

    def expected_process_recorder_class(self) -> type[ProcessRecorder]:
        return HeadwaterProcessRecorder


class TestDCBRecorder(OnHeadwater, DCBRecorderTestCase):
    def recorder(self) -> HeadwaterDCBRecorder:
        return self.connect().dcb_recorder()

    def test_append_read(self) -> None:
        self._test_append_read(self.recorder())

    def test_append_subscribe(self) -> None:
        self._test_append_subscribe(self.recorder())


class InEnvironment(OnHeadwater):
    """The library reads its settings from os.environ."""

    env: ClassVar[dict[str, str]] = {}
    more_settings: ClassVar[dict[str, str]] = {}

    def setUp(self) -> None:
        settings = {
            "PERSISTENCE_MODULE": MODULE,
            "HEADWATER_URL": self.server.url,
            **self.more_settings,
        }
        type(self).env = settings
        for name, value in settings.items():
            os.environ[name] = value
            self.addCleanup(os.environ.pop, name)
        super().setUp()


class TestExampleApplication(InEnvironment, ExampleApplicationTestCase):
    expected_factory_topic = get_topic(HeadwaterFactory)


class TestApplication(InEnvironment, ApplicationTestCase):
    pass


class TestCountersView(OnHeadwater, EventCountersViewTestCase):
    def construct_event_counters_view(self) -> EventCountersView:
        view = self.connect().tracking_recorder(CountersView)
        assert isinstance(view, CountersView)
        return view


class TestAggregateProjection(InEnvironment, AggregateEventCountersProjectionTestCase):
    view_class = CountersView


class TestTaggedProjection(InEnvironment, TaggedDecisionCountersProjectionTestCase):
    view_class = CountersView
    more_settings: ClassVar[dict[str, str]] = {
        "MAPPER_TOPIC": "eventsourcing.dcb.msgpack:MessagePackMapper"
    }


class TestEventSourcedProjection(InEnvironment, EventSourcedProjectionTestCase):
    pass


del DCBRecorderTestCase, AggregateRecorderTestCase, ApplicationRecorderTestCase
del InfrastructureFactoryTestCase, NonInterleavingNotificationIDsBaseCase
del ProcessRecorderTestCase, TrackingRecorderTestCase, EventCountersViewTestCase
del AggregateEventCountersProjectionTestCase, EventSourcedProjectionTestCase
del TaggedDecisionCountersProjectionTestCase, ApplicationTestCase, ExampleApplicationTestCase
