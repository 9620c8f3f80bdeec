"""The checkers report hidden or erased events that were read, and events that are missing."""

from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.history import (
    Append,
    Attempt,
    DeleteStream,
    Dump,
    Erase,
    Feed,
    History,
    Kept,
    Listing,
    Logged,
    NoEvents,
    Operation,
    Outcome,
    Query,
    Read,
    Retain,
    Save,
    Seen,
    Truncate,
)
from tests.simulation.replay import check_history, feed_problems


def appended(*elements: str) -> Append:
    return Append("s", [(element, "T") for element in elements])


class Thinned:
    """Seven events of a stream: 1 and 2 truncated, 4 erased, all up to 5 deleted, 6 capped."""

    COMMITS: tuple[Operation, ...] = (
        appended("e1", "e2", "e3"),
        Save("s", 1, 2),
        Truncate("s", 3),
        appended("e4", "e5#green"),
        Erase("s", [4]),
        DeleteStream("s"),
        appended("e6", "e7"),
        Retain("s", 1),
    )

    def __init__(self, *, last: int = 8) -> None:
        self.history = History()
        commits, position = [], 0
        for number, operation in enumerate(self.COMMITS[:last], 1):
            self.commit(number, operation)
            count = len(operation.elements) if isinstance(operation, Append) else 0
            first = position + 1 if count else None
            commits.append(Logged(number, bytes([number] * 16), number, first, count))
            position += count
        left = [Seen(7, "s", 7, 7, "T", "e7")] if last == 8 else []
        self.dump = Dump(commits, left, [], {"s": left} if left else {})

    def commit(self, number: int, *operations: Operation) -> Attempt:
        attempt = self.history.begin("hand", "test")
        attempt.identity = bytes([number] * 16)
        attempt.operations += operations
        self.history.end(attempt, Outcome.COMMITTED, number)
        return attempt

    def read(self, *operations: Operation, view: int, floor: int = 0) -> "Thinned":
        attempt = self.history.begin("hand", "past")
        attempt.operations += operations
        attempt.view = view
        attempt.floor = floor
        self.history.end(attempt, Outcome.COMMITTED)
        return self

    def problems(self, **changes: Any) -> str:
        return "\n".join(check_history(self.history, replace(self.dump, **changes)))


@pytest.mark.parametrize(
    ("view", "reads"),
    [
        (2, [Read("s", 0, ["e1", "e2", "e3"]), Kept("s", 1, 3, 1, 2, ["e1", "e2", "e3"])]),
        (3, [Read("s", 0, ["e3"]), Kept("s", 1, 3, 1, 2, ["e1", "e2", "e3"])]),
        (3, [Kept("s", 2, 3, 1, None, ["e3"]), Query(0, None, "T", ["e3"])]),
        (4, [Read("s", 3, ["e4", "e5#green"]), Read("s", 3, ["~4", "e5#green"])]),
        (5, [Read("s", 0, ["e3", "~4", "e5#green"]), Listing("s", [("s", 5, 3, 1)])]),
        (6, [Read("s", 0, []), Kept("s", 1, 0, 6, None, []), Listing("", [])]),
        (7, [Read("s", 0, ["e6", "e7"]), Kept("s", 1, 7, 6, None, ["e6", "e7"])]),
        (8, [Read("s", 0, ["e7"]), Listing("s", [("s", 7, 7, 6)]), Query(0, "s", None, ["e7"])]),
        (5, [Truncate("s", 5), Read("s", 0, ["e5#green"]), DeleteStream("s"), Read("s", 0, [])]),
    ],
)
def test_the_right_reads_at_each_commit_are_no_problem(view: int, reads: list[Operation]) -> None:
    thinned = Thinned().read(*reads, view=view)
    thinned.history.attempts[-1].outcome = Outcome.ABORTED
    assert thinned.problems() == ""


@pytest.mark.parametrize(
    ("view", "read"),
    [
        (3, Read("s", 0, ["e2", "e3"])),
        (3, Read("s", 0, [])),
        (3, Query(0, None, None, ["e1", "e2", "e3"])),
        (3, Kept("s", 2, 3, 1, 1, ["e1", "e2", "e3"])),
        (3, Listing("s", [("s", 3, 1, 1)])),
        (5, Read("s", 0, ["e3", "e4", "e5#green"])),
        (5, Read("s", 0, ["~3", "~4", "e5#green"])),
        (5, Kept("s", 1, 5, 1, 2, ["e1", "e2", "e3", "e4", "e5#green"])),
        (6, Read("s", 0, ["e5#green"])),
        (6, Listing("s", [("s", 5, 6, 6)])),
        (7, Kept("s", 1, 7, 1, None, ["e6", "e7"])),
        (7, Kept("s", 1, 7, 6, 2, ["e1", "e2", "e6", "e7"])),
        (8, Read("s", 0, ["e6", "e7"])),
    ],
)
def test_a_read_with_a_hidden_event_or_without_a_visible_one_is_reported(
    view: int, read: Operation
) -> None:
    assert f"is not what commit {view} has" in Thinned().read(read, view=view).problems()


def test_a_missing_snapshot_is_reported() -> None:
    # The model does not know which snapshots remain after an erasure.
    for last, problem in ((4, "is not what commit 3 has"), (5, "")):
        without = Kept("s", 1, 3, 1, None, ["e3"])
        thinned = Thinned(last=last).read(without, view=3)
        left = [Seen(3, "s", 3, 1, "T", "e3"), Seen(4, "s", 4, 4, "T", "e4" if last == 4 else "~4")]
        left.append(Seen(5, "s", 5, 4, "T", "e5#green"))
        found = thinned.problems(events=left, streams={"s": left})
        assert problem in found
        assert bool(found) == bool(problem)


def test_after_an_acknowledged_erasure_no_read_of_the_past_may_return_the_data() -> None:
    seen = Read("s", 3, ["e4", "e5#green"])
    assert Thinned().read(seen, view=4, floor=4).problems() == ""
    assert "is not what commit 4 has" in Thinned().read(seen, view=4, floor=5).problems()


def test_a_condition_does_not_see_hidden_events() -> None:
    for last, problem in ((5, True), (6, False)):
        thinned = Thinned(last=last)
        thinned.commit(last + 1, NoEvents(("green",), 0))
        commits = [*thinned.dump.commits, Logged(last + 1, bytes([last + 1] * 16), 99, None, 0)]
        assert ("on condition of" in thinned.problems(commits=commits)) is problem


def test_the_final_state_has_exactly_the_remaining_events() -> None:
    (left,) = Thinned().dump.events
    for events in ([], [left._replace(element="~7")], [left._replace(version=6)]):
        assert "at the end" in Thinned().problems(events=events)
    hidden = Seen(6, "s", 6, 7, "T", "e6")
    assert "at the end" in Thinned().problems(events=[hidden, left])
    assert "s at the end" in Thinned().problems(streams={"s": [hidden, left]})


def test_an_acknowledged_write_has_its_own_commit_even_if_it_hides_nothing() -> None:
    for operation in (
        Erase("s", [4]),
        Retain("t", None),
        DeleteStream("t"),
        Truncate("s", 5),
        Truncate("s", 8),
        Retain("s", None),
        Erase("s", [7]),
        appended("e8"),
    ):
        thinned = Thinned()
        thinned.commit(8, operation).identity = b"another".ljust(16)
        assert "lost: attempt 8" in thinned.problems()


def test_a_subscription_may_lack_hidden_events_and_must_if_they_were_acknowledged_before() -> None:
    events = [Seen(n, "s", n, n, "T", f"e{n}") for n in (1, 2, 3)]
    hidden, erased = {1: 4, 2: 6}, {3: 5}

    def problems(*found: Seen, floor: int = 0, caught_up: int = 3) -> list[str]:
        feed = Feed("hand", 0, caught_up=caught_up)
        feed.events += found
        feed.floors += [floor] * len(found)
        return list(feed_problems(feed, events, hidden, erased))

    gone = events[2]._replace(element="~3")
    for sound in ([*events], events[1:], [events[0], gone], [gone]):
        assert problems(*sound) == []
    assert problems(*events[1:2], gone, floor=5) == []
    assert "had hidden" in problems(events[0], gone, floor=4)[0]
    assert problems(events[2], floor=5)
    assert problems(events[0]._replace(element="~1"))
    assert problems(events[1], events[0])
    assert problems(events[0], events[1])
    assert problems(events[0], events[1], caught_up=2) == []
