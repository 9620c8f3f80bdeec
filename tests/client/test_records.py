"""Events, batches and times."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest

from headwater.codecs.codec import MsgpackCodec
from headwater.codecs.events import recorded_event
from headwater.errors import InvalidArgument, Undecodable
from headwater.feeds.items import EventBatch
from headwater.records import microseconds_of, time_of

ROW: list[Any] = [4, "s", 2, 3, 1_700_000_000_123_456, bytes(range(16)), "A", b"\x01", b""]


def test_a_recorded_event_has_all_stored_fields() -> None:
    event = recorded_event(ROW, MsgpackCodec())
    assert (event.position, event.stream, event.version, event.commit) == (4, "s", 2, 3)
    assert event.time == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert event.id.bytes == bytes(range(16))
    assert (event.type, event.data, event.metadata) == ("A", 1, None)
    with pytest.raises(FrozenInstanceError):
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
        with pytest.raises(Undecodable, match=f"event 2 of s: {name}"):
            recorded_event(row, MsgpackCodec())


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
