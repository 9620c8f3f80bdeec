"""The checker for retention by age knows which events must and which may be returned."""

from tests.simulation.ages import Ages, age_us, stream_kept_for
from tests.simulation.history import Append, Read, Seen
from tests.simulation.model import Model, View

STREAM = stream_kept_for(1000)
SECOND = 1_000_000
TIMES = [second * SECOND for second in (1, 2, 3, 5)]
"""The times of four commits; the first three append an event each."""

EVENTS = [Seen(n, STREAM, n, n, "Aged", str(n)) for n in (1, 2, 3)]


def readable(view: int, *found: str) -> list[str]:
    ages = Ages(TIMES, view)
    return [event.element for event in ages.readable(EVENTS[:view], found)]


def test_the_name_of_a_stream_has_its_maximum_age() -> None:
    assert age_us(STREAM) == SECOND
    assert age_us("kept-1") is None
    assert age_us("plain") is None


def test_an_event_that_is_too_old_at_the_view_must_be_hidden() -> None:
    # At the time of commit 3, the event of commit 1 is two seconds old.
    assert "1" not in readable(3, "1", "2", "3")


def test_an_event_that_is_young_at_the_next_commit_must_be_returned() -> None:
    # Commit 2 is made when the event of commit 1 is one second old, which is not too old.
    assert readable(1) == ["1"]


def test_an_event_that_expires_before_the_next_commit_may_be_returned_or_not() -> None:
    assert readable(3, "2", "3") == ["2", "3"]
    assert readable(3, "3") == ["3"]
    assert readable(3) == []


def test_events_are_hidden_from_the_oldest_on() -> None:
    assert readable(3, "2") != ["2"]


def test_all_reads_of_a_view_hide_the_same() -> None:
    model = Model()
    for time, event in zip(TIMES, EVENTS, strict=False):
        model.commit([Append(STREAM, [(event.element, event.kind)])], time)
    view = View(model, 3)
    first, second = Read(STREAM, 0, ["3"]), Read(STREAM, 0, ["2", "3"])
    assert view.expected(first) == first
    assert view.expected(second) != second
    assert View(model, 3).expected(second) == second
    # Before its own commit a transaction may miss events that expired since its view.
    assert View(model, 3, aging=False).expected(Read(STREAM, 0, [])) == Read(STREAM, 0, [])
