"""Filters of events."""

import pytest

from headwater_server.engine.format.events import StoredEvent
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter


def event(stream: str, event_type: str) -> StoredEvent:
    return StoredEvent(1, stream, 1, 1, 0, bytes(16), event_type, b"", b"")


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (EVERYTHING, True),
        (EventFilter(stream="account-ann"), True),
        (EventFilter(stream="account"), False),
        (EventFilter(category="account"), True),
        (EventFilter(category="acc"), False),
        (EventFilter(prefix="acc"), True),
        (EventFilter(prefix="account-ann"), True),
        (EventFilter(prefix="account-anna"), False),
        (EventFilter(types=("Closed", "Opened")), True),
        (EventFilter(types=("Closed",)), False),
        (EventFilter(category="account", types=("Closed",)), False),
        (EventFilter("account-ann", "account", "a", ("Opened",)), True),
        (EventFilter("account-ann", "order", "a", ("Opened",)), False),
    ],
)
def test_all_given_parts_must_match(wanted: EventFilter, fits: bool) -> None:
    assert wanted.fits(event("account-ann", "Opened")) is fits


def test_a_filter_of_a_request_encodes_to_the_same_request() -> None:
    members = {"stream": "a", "category": "b", "prefix": "c", "types": ["D", "E"]}
    assert EventFilter.from_wire(members).as_wire() == members
    assert EventFilter.from_wire({}) is EVERYTHING
    assert EVERYTHING.as_wire() == {}


def test_a_type_that_is_named_twice_is_looked_up_once() -> None:
    assert EventFilter.from_wire({"types": ["B", "A", "B"]}).types == ("B", "A")
