"""What the shipped cases leave out: contexts, unusual names and versions, restarts, threads."""

import threading
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
from eventsourcing.persistence import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.utils import Environment
from eventsourcing_headwater import HeadwaterFactory
from eventsourcing_headwater.names import (
    category_of,
    metadata_of,
    originator_of,
    stream_of,
    topic_and_offset,
    type_of,
)
from hypothesis import given
from hypothesis import strategies as st

from headwater.cli.server_process import ServerProcess

Connect = Callable[..., HeadwaterFactory]


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Connect]:
    """Makes factories of one context, which no other test uses."""
    context = f"test {uuid4()}"
    factories: list[HeadwaterFactory] = []

    def make(name: str = "application", **settings: str) -> HeadwaterFactory:
        given = {"HEADWATER_URL": server.url, "HEADWATER_CONTEXT": context, **settings}
        factories.append(HeadwaterFactory(Environment(name, given)))
        return factories[-1]

    yield make
    for factory in factories:
        factory.close()


def stored(originator: UUID | str, *versions: int, topic: str = "topic") -> list[StoredEvent]:
    return [StoredEvent(originator, version, topic, b"%d" % version) for version in versions]


def test_two_contexts_see_nothing_of_each_other(connect: Connect) -> None:
    one, two = connect(), connect(HEADWATER_CONTEXT=f"other {uuid4()}")
    originator = uuid4()
    one.application_recorder().insert_events(stored(originator, 1, 2))
    two.application_recorder().insert_events(stored(originator, 1))
    one.aggregate_recorder("snapshots").insert_events(stored(originator, 2))
    one.tracking_recorder().insert_tracking(Tracking("upstream", 5))
    one.dcb_recorder().append([DCBEvent("type", b"", ["tag"])])

    recorder = two.application_recorder()
    assert len(recorder.select_events(originator)) == 1
    assert len(recorder.select_notifications(None, 10)) == 1
    assert list(two.aggregate_recorder("snapshots").select_events(originator)) == []
    assert two.tracking_recorder().max_tracking_id("upstream") is None
    assert list(two.dcb_recorder().read()) == []


def test_applications_of_one_context_see_nothing_of_each_other(connect: Connect) -> None:
    orders, mails = connect("orders").application_recorder(), connect("mails-x")
    orders.insert_events(stored("a", 1))
    assert mails.application_recorder().max_notification_id() is None
    mails.application_recorder().insert_events(stored("a", 1, 2))
    assert len(orders.select_notifications(None, 10)) == 1
    assert len(mails.application_recorder().select_notifications(None, 10)) == 2


def test_a_condition_of_a_context_ignores_events_of_others(connect: Connect) -> None:
    one = connect().dcb_recorder()
    two = connect(HEADWATER_CONTEXT=f"other {uuid4()}").dcb_recorder()
    two.append([DCBEvent("Taken", b"", ["name:ann"])])
    for items in ([DCBQueryItem(types=["Taken"], tags=["name:ann"])], [DCBQueryItem()], []):
        one.append(
            [DCBEvent("Seen", b"", [])],
            DCBAppendCondition(DCBQuery(items=items), after=one.read().head),
        )
    with pytest.raises(IntegrityError):
        one.append([DCBEvent("Seen", b"", [])], DCBAppendCondition(DCBQuery(items=[]), after=0))


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_different_applications_have_different_categories(a: str, b: str, c: str, d: str) -> None:
    first, second = category_of(a or "x", b), category_of(c or "x", d)
    assert "-" not in first
    assert (first == second) == ((a or "x", b) == (c or "x", d)) or not (b and d)


@given(st.uuids() | st.text(max_size=50))
def test_an_originator_is_read_from_its_stream(originator: UUID | str) -> None:
    category = category_of("application", "context")
    assert originator_of(category, stream_of(category, originator)) == originator


@given(st.text(max_size=400), st.sampled_from([0, -1]))
def test_a_topic_is_read_from_type_and_metadata(topic: str, offset: int) -> None:
    kind = type_of(topic)
    assert 0 < len(kind.encode()) <= 256
    assert topic_and_offset(kind, metadata_of(topic, kind, offset)) == (topic, offset)


@pytest.mark.parametrize("topic", ["", "x" * 500, "a\x00b", "#hash", "ä" * 200])
def test_an_unusual_topic_is_stored(connect: Connect, topic: str) -> None:
    recorder = connect().application_recorder()
    recorder.insert_events(stored("a", 1, topic=topic) + stored("b", 1, topic="other"))
    assert [event.topic for event in recorder.select_events("a")] == [topic]
    found = recorder.select_notifications(None, 10, topics=[topic])
    assert [notification.topic for notification in found] == [topic]


def test_aggregates_may_begin_with_version_0(connect: Connect) -> None:
    one = connect().aggregate_recorder()
    one.insert_events(stored("a", 0, 1) + stored("b", 1, 2))
    # Another process does not know yet that this one begins with 0.
    two = connect().aggregate_recorder()
    two.insert_events(stored("a", 2) + stored("b", 3))
    with pytest.raises(IntegrityError):
        two.insert_events(stored("a", 2))
    versions = [event.originator_version for event in one.select_events("a")]
    assert versions == [0, 1, 2]
    for gt, lte, expected in ((0, None, [1, 2]), (None, 1, [0, 1]), (0, 1, [1]), (2, None, [])):
        for desc in (False, True):
            found = one.select_events("a", gt=gt, lte=lte, desc=desc)
            found_versions = [event.originator_version for event in found]
            assert found_versions == (expected[::-1] if desc else expected)
    with pytest.raises(ProgrammingError):
        one.insert_events(stored("c", -1))


def test_a_refused_insertion_stores_nothing(connect: Connect) -> None:
    recorder = connect().application_recorder()
    recorder.insert_events(stored("a", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("b", 1, 2) + stored("a", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("c", 1, 3))
    assert recorder.select_events("b") == []
    assert recorder.select_events("c") == []


def test_an_insertion_larger_than_a_request_is_one_transaction(connect: Connect) -> None:
    recorder = connect().application_recorder()
    events = [StoredEvent("a", version, "topic", bytes(2**20)) for version in range(1, 21)]
    positions = recorder.insert_events(events)
    assert positions is not None
    assert len(positions) == 20
    assert list(positions) == list(range(positions[0], positions[0] + 20))
    with pytest.raises(IntegrityError):
        recorder.insert_events(events)


def test_snapshots_are_found_up_to_any_version(connect: Connect) -> None:
    recorder = connect().aggregate_recorder("snapshots")
    recorder.insert_events(stored("a", 5, 10, 20))
    newest = recorder.select_events("a", lte=19, desc=True, limit=1)
    assert [event.originator_version for event in newest] == [10]
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("a", 10))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("b", 1) + stored("b", 1))


def test_two_recorders_track_one_upstream(connect: Connect) -> None:
    one, two = connect().tracking_recorder(), connect().tracking_recorder()
    one.insert_tracking(Tracking("upstream", 1))
    two.insert_tracking(Tracking("upstream", 2))
    one.insert_tracking(Tracking("upstream", 3))
    with pytest.raises(IntegrityError):
        two.insert_tracking(Tracking("upstream", 3))
    assert two.max_tracking_id("upstream") == 3


def test_a_condition_of_the_view_is_no_reason_to_try_again(connect: Connect) -> None:
    recorder = connect().tracking_recorder()
    calls = []

    def write(batch: object) -> None:
        calls.append(batch)
        batch.require(("absent",), b"never")  # type: ignore[attr-defined]

    with pytest.raises(IntegrityError):
        recorder.insert_with_tracking(Tracking("upstream", 1), write)
    assert len(calls) == 1
    assert recorder.max_tracking_id("upstream") is None


def test_events_and_tracking_are_one_transaction(connect: Connect) -> None:
    recorder = connect().process_recorder()
    recorder.insert_events(stored("a", 1), tracking=Tracking("upstream", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("b", 1), tracking=Tracking("upstream", 1))
    with pytest.raises(IntegrityError):
        recorder.insert_events(stored("a", 1), tracking=Tracking("upstream", 2))
    assert recorder.select_events("b") == []
    assert recorder.max_tracking_id("upstream") == 1
    recorder.insert_events([], tracking=Tracking("upstream", 2))
    assert recorder.max_tracking_id("upstream") == 2


def test_threads_process_each_notification_once(connect: Connect) -> None:
    recorders = [connect().process_recorder() for _ in range(4)]

    def work(recorder: object) -> None:
        for number in range(1, 26):
            try:
                recorder.insert_events(  # type: ignore[attr-defined]
                    stored(f"effect {number}", 1), tracking=Tracking("upstream", number)
                )
            except IntegrityError:
                continue

    threads = [threading.Thread(target=work, args=(recorder,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    topics = recorders[0].select_notifications(None, 100)
    numbers = [notification.originator_id for notification in topics]
    assert len(numbers) == len(set(numbers))
    assert recorders[0].max_tracking_id("upstream") == 25


def test_a_waiting_subscription_is_stopped_by_another_thread(connect: Connect) -> None:
    factory = connect()
    factory.application_recorder().insert_events(stored("a", 1))
    for subscription in (
        factory.application_recorder().subscribe(gt=0),
        factory.dcb_recorder().subscribe(after=0),
    ):
        seen: list[object] = []
        thread = threading.Thread(target=lambda s=subscription, seen=seen: seen.extend(s))
        thread.start()
        subscription.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_closing_a_factory_ends_what_waits(connect: Connect) -> None:
    factory = connect()
    subscription = factory.application_recorder().subscribe()
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            for _ in subscription:
                pass
            ended.append(None)
        except OperationalError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    factory.close()
    thread.join(30)
    assert len(ended) == 1
    with pytest.raises(OperationalError):
        factory.application_recorder().max_notification_id()


def test_a_subscription_goes_on_after_a_restart(new_server: ServerProcess) -> None:
    settings = {"HEADWATER_URL": new_server.url}
    factory = HeadwaterFactory(Environment("application", settings))
    recorder = factory.application_recorder()
    subscription = recorder.subscribe(gt=0)
    seen: list[int] = []
    with subscription:
        for version in range(1, 7):
            if version % 2:
                new_server.kill()
                new_server.start()
            recorder.insert_events(stored("a", version))
            seen.append(next(subscription).originator_version)
    factory.close()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_invalid_setting_is_named(connect: Connect) -> None:
    with pytest.raises(OSError, match="HEADWATER_REQUEST_TIMEOUT"):
        connect(HEADWATER_REQUEST_TIMEOUT="soon")
