"""The replay finds every contradiction between a history and the commit log."""

from dataclasses import replace
from typing import Any

import pytest

from tests.simulation.history import (
    Add,
    Append,
    Attempt,
    Dump,
    Feed,
    Get,
    History,
    Load,
    Logged,
    NoEvents,
    Operation,
    Outcome,
    Put,
    Query,
    Read,
    Scan,
    Seen,
    StatusAnswer,
    Truncate,
)
from tests.simulation.judge import invariants
from tests.simulation.model import fold
from tests.simulation.replay import check_history, feed_problems

A, B = ("k", "a"), ("k", "b")


def identity(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Sound:
    """A small correct history; each test breaks it in one place."""

    def __init__(self) -> None:
        self.history = History()
        self.commit(1, Put(A, 1), Append("s-1", [("e1", "T"), ("e2", "T")]))
        self.commit(2, Get(A, 1), Put(B, 2), Append("t", [("e3", "U")]), view=1)
        self.commit(3, Add(A, 5))
        events = [
            Seen(1, "s-1", 1, 1, "T", "e1"),
            Seen(2, "s-1", 2, 1, "T", "e2"),
            Seen(3, "t", 1, 2, "U", "e3"),
        ]
        self.dump = Dump(
            [
                Logged(1, identity(1), 10, 1, 2),
                Logged(2, identity(2), 20, 3, 1),
                Logged(3, identity(3), 20, None, 0),
            ],
            events,
            [(A, 6), (B, 2)],
            {"s-1": events[:2], "t": events[2:]},
        )

    def commit(
        self, number: int, *operations: Operation, view: int | None = None, **more: Any
    ) -> Attempt:
        attempt = self.history.begin("hand", "test", **more)
        attempt.identity = identity(number)
        attempt.operations += operations
        attempt.view = view
        self.history.end(attempt, Outcome.COMMITTED, number)
        return attempt

    def read(self, *operations: Operation, view: int | None = None, **more: Any) -> Attempt:
        attempt = self.history.begin("hand", "test", **more)
        attempt.operations += operations
        attempt.view = view
        self.history.end(attempt, Outcome.COMMITTED)
        return attempt

    def problems(self, **changes: Any) -> str:
        return "\n".join(check_history(self.history, replace(self.dump, **changes)))


def test_a_sound_history_has_no_problem() -> None:
    sound = Sound()
    sound.read(
        Get(A, 6),
        Scan(("k",), 1, True, [(B, 2)]),
        Read("s-1", 1, ["e2"]),
        Query(0, "s", None, ["e1", "e2"]),
        Query(1, None, "U", ["e3"]),
        Load("t", 1, 1, fold(1, ["e3"])),
        view=3,
    )
    assert sound.problems() == ""


@pytest.mark.parametrize(
    "read",
    [
        Get(A, 1),
        Scan(("k",), None, False, [(A, 6)]),
        Read("s-1", 0, ["e1"]),
        Query(0, None, None, ["e1", "e3"]),
        Load("t", 1, 1, fold(1, ["e1"])),
        Load("t", 1, 2, fold(1, ["e3"])),
    ],
)
def test_a_read_that_differs_from_its_commit_is_reported(read: Operation) -> None:
    sound = Sound()
    sound.read(read, view=3)
    assert "is not what commit 3 has" in sound.problems()


def test_reads_see_the_writes_before_them() -> None:
    sound = Sound()
    sound.read(Add(A, 1), Get(A, 7), Put(B, None), Scan(("k",), None, False, [(A, 7)]), view=3)
    sound.history.attempts[-1].outcome = Outcome.ABORTED
    assert sound.problems() == ""
    sound.history.attempts[-1].operations.append(Get(B, 2))
    assert "is not what commit 3 has" in sound.problems()


def test_a_read_outside_a_transaction_must_be_of_a_commit_that_is_new_enough() -> None:
    sound = Sound()
    sound.read(Get(A, 6))
    assert sound.problems() == ""
    sound.read(Get(A, 1))
    assert "at no commit from 3 on" in sound.problems()


def test_a_serializable_transaction_whose_reads_were_overwritten_is_reported() -> None:
    for isolation, said in (("serializable", "not serializable"), ("snapshot", "")):
        sound = Sound()
        attempt = sound.history.attempts[1]
        attempt.isolation = isolation
        attempt.operations[0] = Get(A, None)
        attempt.view = 0
        attempt.floor = 0
        assert said in sound.problems()
        assert bool(sound.problems()) == bool(said)


def test_a_missing_acknowledged_commit_is_reported() -> None:
    sound = Sound()
    found = sound.problems(commits=sound.dump.commits[:2], keys=[(A, 1), (B, 2)])
    assert "lost: attempt 2" in found


def test_an_acknowledged_commit_with_the_number_of_another_is_reported() -> None:
    sound = Sound()
    sound.history.attempts[2].identity = identity(9)
    sound.history.attempts.append(
        replace(sound.history.attempts[2], identity=identity(3), commit=None, number=3)
    )
    assert "lost: attempt 2" in sound.problems()


def test_an_aborted_transaction_in_the_commit_log_is_reported() -> None:
    sound = Sound()
    sound.history.attempts[2].outcome = Outcome.ABORTED
    assert "is in the commit log as 3" in sound.problems()


def test_an_unknown_transaction_may_have_committed_or_not() -> None:
    sound = Sound()
    sound.history.attempts[2].outcome = Outcome.UNKNOWN
    sound.history.attempts[2].commit = None
    sound.history.acknowledged = 2
    assert sound.problems() == ""
    assert sound.problems(commits=sound.dump.commits[:2], keys=[(A, 1), (B, 2)]) == ""


def test_a_commit_without_an_attempt_is_reported() -> None:
    sound = Sound()
    commits = [*sound.dump.commits, Logged(4, identity(4), 30, None, 0)]
    assert "commit 4 belongs to no attempt" in sound.problems(commits=commits)


def test_a_transaction_that_is_in_the_log_twice_is_reported() -> None:
    sound = Sound()
    commits = [*sound.dump.commits, Logged(4, identity(3), 30, None, 0)]
    assert "twice in the commit log" in sound.problems(commits=commits)


def test_numbers_must_have_no_gaps_and_times_must_not_go_back() -> None:
    sound = Sound()
    commits, events = sound.dump.commits, sound.dump.events
    assert "instead of commit 2" in sound.problems(commits=[commits[0], commits[2]])
    late = [commits[0], commits[1]._replace(time=5), commits[2]]
    assert "has an earlier time" in sound.problems(commits=late)
    gap = [events[0], events[1], events[2]._replace(position=4)]
    assert "instead of position 3" in sound.problems(events=gap)
    again = [events[0], events[1]._replace(version=1), events[2]]
    assert "should have version 2" in sound.problems(events=again)


def test_the_final_state_must_equal_the_model() -> None:
    sound = Sound()
    assert "should not be there" in sound.problems(keys=[(A, 6), (B, 3)])
    events = [*sound.dump.events[:2], sound.dump.events[2]._replace(element="x")]
    assert "events at the end" in sound.problems(events=events)
    assert "s-1 at the end" in sound.problems(streams={"s-1": []})


def test_a_transaction_that_began_after_an_acknowledgement_must_see_the_commit() -> None:
    sound = Sound()
    sound.read(Get(A, 1), view=2)
    assert "though 3 was acknowledged" in sound.problems()


def test_a_transaction_that_began_after_an_acknowledgement_must_commit_later() -> None:
    sound = Sound()
    sound.history.attempts[1].floor = 2
    assert "but began later" in sound.problems()


def test_a_read_at_a_commit_that_does_not_exist_is_reported() -> None:
    sound = Sound()
    sound.read(Get(A, 6), view=4)
    assert "read at a commit that does not exist" in sound.problems()


def test_a_wrong_status_answer_is_reported() -> None:
    for answer in (
        StatusAnswer(identity(3), "aborted", None),
        StatusAnswer(identity(3), "committed", 2),
    ):
        sound = Sound()
        sound.history.status_answers.append(answer)
        assert "was told" in sound.problems()
    sound = Sound()
    sound.history.status_answers += [
        StatusAnswer(identity(3), "committed", 3),
        StatusAnswer(identity(8), "aborted", None),
    ]
    assert sound.problems() == ""


def test_the_status_open_after_an_acknowledgement_is_reported() -> None:
    sound = Sound()
    sound.history.status_answers.append(StatusAnswer(identity(3), "open", None, floor=2))
    assert sound.problems() == ""
    sound.history.status_answers.append(StatusAnswer(identity(3), "open", None, floor=3))
    assert "was told after it was acknowledged" in sound.problems()


def test_the_status_open_after_aborted_is_reported() -> None:
    sound = Sound()
    sound.history.status_answers.append(StatusAnswer(identity(8), "aborted", None, asked=1, told=3))
    sound.history.status_answers.append(StatusAnswer(identity(8), "open", None, asked=2, told=4))
    assert sound.problems() == ""
    sound.history.status_answers.append(StatusAnswer(identity(8), "open", None, asked=5, told=6))
    assert "was told, after" in sound.problems()


def test_a_write_that_is_acknowledged_with_the_commit_of_another_is_reported() -> None:
    # A truncation that hid nothing made no commit, and its answer had the commit of another client.
    sound = Sound()
    attempt = sound.history.begin("hand", "hollow")
    attempt.identity = identity(9)
    attempt.operations.append(Truncate("s", 1))
    sound.history.end(attempt, Outcome.COMMITTED, 2)
    assert "its commit is of another transaction" in sound.problems()


def test_a_subscription_with_a_missing_duplicate_or_wrong_event_is_reported() -> None:
    events = Sound().dump.events

    def problems(*found: Seen, caught_up: int = 0, **rest: Any) -> list[str]:
        feed = Feed("hand", 0, **rest)
        feed.events += found
        feed.caught_up = caught_up
        return list(feed_problems(feed, events))

    assert problems(*events, caught_up=3) == []
    assert problems(events[0]) == []
    assert problems(events[2], category="t", caught_up=3) == []
    assert problems(events[1])
    assert problems(events[0], events[0])
    assert problems(events[0], events[2])
    assert problems(events[0], category="t")
    assert problems(events[0], caught_up=2)
    assert problems(events[0], events[1]._replace(element="x"))


def test_the_invariants_of_the_workloads_are_checked() -> None:
    history = History()
    attempt = history.begin("hand", "bank audit")
    attempt.operations.append(Scan(("bank",), None, False, [(("bank", 0), 599)]))
    attempt.operations += [Get(("skew", 1, 0), 0), Get(("skew", 1, 1), 0)]
    attempt.operations.append(
        Scan(("skew", 2), None, False, [(("skew", 2, 0), 0), (("skew", 2, 1), 0)])
    )
    assert len(list(invariants(history))) == 3


def test_a_condition_on_a_query_must_hold_when_its_transaction_commits() -> None:
    for after, problem in ((1, ""), (0, "committed on condition of NoEvents")):
        history = History()
        commits, events = [], []
        for number in (1, 2):
            identity = bytes([number]) * 16
            attempt = history.begin("c", "rules")
            attempt.identity = identity
            attempt.operations += [NoEvents(("red",), after), Append("s", [("e#red", "T")])]
            if number == 1:
                attempt.operations = attempt.operations[1:]
            history.end(attempt, Outcome.COMMITTED, number)
            commits.append(Logged(number, identity, number, number, 1))
            events.append(Seen(number, "s", number, number, "T", "e#red"))
        found = "\n".join(check_history(history, Dump(commits, events, [], {"s": events})))
        assert problem in found
        assert bool(found) == bool(problem)
