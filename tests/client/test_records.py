"""Events, batches and times."""

import copy
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from headwater.aggregates.aggregates import Decided
from headwater.codecs.codec import MsgpackCodec
from headwater.codecs.events import recorded_event
from headwater.errors import InvalidArgument, Undecodable
from headwater.feeds.items import EventBatch
from headwater.records import RecordedEvent, committed_from, microseconds_of, position_of, time_of
from headwater.transactions.batch import Executed
from headwater_protocol.numbers import StreamVersion

ROW: list[Any] = [4, "s", 2, 3, 1_700_000_000_123_456, bytes(range(16)), "A", b"\x01", b""]


def test_a_recorded_event_has_all_stored_fields() -> None:
    event = recorded_event(ROW, MsgpackCodec())
    assert (event.position, event.stream, event.version, event.commit) == (4, "s", 2, 3)
    assert event.time == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert event.id.bytes == bytes(range(16))
    assert (event.type, event.data, event.metadata) == ("A", 1, None)
    with pytest.raises(AttributeError):
        event.data = 2  # type: ignore[misc]
    assert not hasattr(event, "__dict__")


def test_an_event_that_was_stored_before_tags_existed_has_an_empty_tuple() -> None:
    tagged = recorded_event([*ROW, ["x", "y"]], MsgpackCodec())
    assert (tagged.tags, tagged.erased) == (("x", "y"), False)
    assert recorded_event([*ROW, []], MsgpackCodec()) == recorded_event(ROW, MsgpackCodec())
    assert recorded_event(ROW, MsgpackCodec()).tags == ()


def test_erased_is_true_for_erased_data_and_false_for_data_that_is_none() -> None:
    row = [*ROW[:7], None, None, ["x"]]
    erased = recorded_event(row, MsgpackCodec())
    assert (erased.data, erased.metadata, erased.tags, erased.erased) == (None, None, ("x",), True)
    nothing = recorded_event([*ROW[:7], b"\xc0", b"", []], MsgpackCodec())
    assert (nothing.data, nothing.erased) == (None, False)


def test_the_error_of_an_undecodable_event_names_the_event() -> None:
    for place, name in ((7, "data"), (8, "metadata")):
        row = [*ROW[:place], b"\xc1", *ROW[place + 1 :]]
        event = recorded_event(row, MsgpackCodec())
        for _ in range(2):
            with pytest.raises(Undecodable, match=f"event 2 of s, at position 4: {name}") as raised:
                event.data  # noqa: B018
        assert raised.value.details == {"stream": "s", "version": 2, "position": 4, "type": "A"}
        with pytest.raises(Undecodable):
            event.metadata  # noqa: B018
        # All else of it can be read, and it can be shown and compared.
        assert (event.position, event.stream, event.version, event.type) == (4, "s", 2, "A")
        assert (event.id.bytes, event.tags, event.erased) == (bytes(range(16)), (), False)
        assert "data and metadata undecodable" in repr(event)
        assert event == recorded_event(list(row), MsgpackCodec())
        assert event != recorded_event(ROW, MsgpackCodec())
        assert len({event, recorded_event(list(row), MsgpackCodec())}) == 1


class Counting(MsgpackCodec):
    """Counts what it decodes."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded = 0

    def decode(self, data: bytes) -> Any:
        self.decoded += 1
        return super().decode(data)


def test_data_is_decoded_when_it_is_asked_for_and_once() -> None:
    codec = Counting()
    event = recorded_event([*ROW[:7], b"\x91\x01", b"\x02", []], codec)
    assert (event.position, event.type, codec.decoded) == (4, "A", 0)
    assert (event.data, event.metadata, codec.decoded) == ([1], 2, 2)
    assert event.data is event.data
    assert codec.decoded == 2


MADE = {
    "position": 4,
    "stream": "s",
    "version": 2,
    "commit": 3,
    "time": datetime(2023, 11, 14, 22, 13, 20, 123456, UTC),
    "id": UUID(bytes=bytes(range(16))),
    "type": "A",
    "data": 1,
    "metadata": None,
}


def test_an_application_can_make_events_for_its_own_tests() -> None:
    """`evolve` and handlers are tested with events that no server has sent."""
    made = RecordedEvent(**MADE)  # type: ignore[arg-type]
    assert made == recorded_event(ROW, MsgpackCodec())
    assert hash(made) == hash(recorded_event(ROW, MsgpackCodec()))
    assert repr(made) == repr(recorded_event(ROW, MsgpackCodec()))
    assert RecordedEvent(**MADE, erased=True).erased  # type: ignore[arg-type]
    assert made != RecordedEvent(**{**MADE, "data": 2})  # type: ignore[arg-type]


def test_an_event_can_be_changed_copied_and_pickled() -> None:
    event = recorded_event([*ROW[:7], b"\x91\x01", b"\x02", ["x"]], MsgpackCodec())
    changed = replace(event, data=2, type="B")
    assert (changed.data, changed.type, changed.metadata) == (2, "B", 2)
    assert (changed.position, changed.tags) == (4, ("x",))
    for copied in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert copied == event
        assert copied.tags == ("x",)


def test_a_batch_is_a_sequence_with_a_position() -> None:
    events = [recorded_event([position, *ROW[1:]], MsgpackCodec()) for position in (4, 7)]
    batch = EventBatch(events)
    assert [*batch] == events
    assert (batch.position, len(batch), batch[0], [*batch[1:]]) == (7, 2, events[0], events[1:])
    assert batch == EventBatch(events)
    assert "2 events to position 7" in repr(batch)


def test_times_are_exact_and_have_a_zone() -> None:
    for microseconds in (0, 1, 1_700_000_000_123_457, 2**52 + 1):
        assert microseconds_of(time_of(microseconds), "t") == microseconds
    with pytest.raises(InvalidArgument, match="t: expected a datetime with a time zone"):
        microseconds_of(datetime(2013, 1, 1), "t")  # noqa: DTZ001


def test_what_a_commit_returned_stands_for_the_position_of_its_last_event() -> None:
    committed = committed_from([7, 0, 3, 5, {"s": 2}])
    executed = Executed(committed, [])
    for place in (5, committed, executed, Decided(StreamVersion(2), (), committed)):
        assert position_of(place) == 5
    nothing = committed_from([7, 0, None, None, {}])
    for empty in (None, nothing, Executed(nothing, []), Decided(StreamVersion(2), (), None)):
        assert position_of(empty) is None
    with pytest.raises(InvalidArgument, match="expected a position or a commit, got 'the end'"):
        position_of("the end")  # type: ignore[arg-type]
