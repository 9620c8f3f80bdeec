"""Garbage collection removes versions that no view can read, and keeps all others."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headwater_server.engine.checkpoint.garbage import is_needed, keeper
from headwater_server.storage.store.interface import Family
from tests.engine.written import PowerLoss, Written

KEYS = [b"\x01a", b"\x01ab", b"\x01b", b"\x01c" * 9, b"\x02a", b"\x01b\x00"]


def test_a_version_is_needed_from_its_commit_until_the_next() -> None:
    assert is_needed(4, 6, 5, [])
    assert not is_needed(4, 6, 6, [])
    assert is_needed(4, 6, 9, [4])
    assert is_needed(4, 6, 9, [1, 5, 8])
    assert not is_needed(4, 6, 9, [1, 3, 6, 8])
    assert keeper(2, 9, [1, 3, 5]) == 3


def test_one_old_reader_keeps_one_version_of_each_key() -> None:
    written = Written(random.Random(1), batch_entries_max=64)
    keys = [b"\x01%d" % number for number in range(20)]
    written.commit(dict.fromkeys(keys, b"old"))
    written.checkpoint(horizon=1)
    written.views = [1]
    for round_number in range(30):
        written.commit(dict.fromkeys(keys, b"%d" % round_number))
        written.checkpoint(horizon=written.last_commit)
    assert len(written.entries(Family.HISTORY)) == len(keys)
    assert written.retained() == len(keys)
    assert written.entries(Family.CHANGES) == []
    written.check()
    written.views = []
    result = written.checkpoint(horizon=written.last_commit)
    assert result.garbage.versions == len(keys)
    assert written.entries(Family.HISTORY) == []
    assert written.retained() == 0


def test_a_run_does_not_examine_again_the_versions_that_a_reader_keeps() -> None:
    written = Written(random.Random(2), batch_entries_max=64)
    keys = [b"\x01%d" % number for number in range(50)]
    written.commit(dict.fromkeys(keys, b"old"))
    written.views = [1]
    written.commit(dict.fromkeys(keys, b"new"))
    written.checkpoint(horizon=1)
    assert written.checkpoint(horizon=2).garbage.examined == 50
    assert written.checkpoint(horizon=2).garbage.examined == 0
    written.commit({keys[0]: b"newer"})
    written.checkpoint()
    assert written.checkpoint(horizon=3).garbage.examined == 1
    written.views = []
    assert written.checkpoint(horizon=3).garbage.examined == 50


def test_a_run_examines_a_bounded_number_of_versions_and_the_next_run_continues() -> None:
    written = Written(random.Random(3), batch_entries_max=4)
    keys = [b"\x01%02d" % number for number in range(25)]
    for value in (b"1", b"2", None):
        written.commit(dict.fromkeys(keys, value))
    written.checkpoint()
    runs = []
    while True:
        result = written.checkpoint(horizon=3, garbage_entries_max=10)
        written.check()
        runs.append(result.garbage)
        if result.garbage.complete:
            break
    assert len(runs) == 8
    assert all(run.examined <= 10 for run in runs)
    assert sum(run.versions for run in runs) == 50
    assert sum(run.deletions for run in runs) == 25
    for family in (Family.LATEST, Family.HISTORY, Family.CHANGES):
        assert written.entries(family) == []


def test_a_deletion_stays_while_a_reader_can_see_what_was_deleted() -> None:
    written = Written(random.Random(4))
    written.commit({b"\x01k": b"v"})
    written.views = [1]
    written.commit({b"\x01k": None})
    written.checkpoint()
    written.checkpoint(horizon=2)
    assert list(written.stored_state.scan(b"", None, 1)) == [(b"\x01k", 1, b"v")]
    assert list(written.stored_state.scan(b"", None, 2)) == [(b"\x01k", 2, None)]
    written.views = []
    result = written.checkpoint(horizon=2)
    assert (result.garbage.versions, result.garbage.deletions) == (1, 1)
    assert list(written.stored_state.scan(b"", None, 2)) == []


class GarbageMachine(RuleBasedStateMachine):
    """Random commits, read views, checkpoints and power losses, compared with dicts."""

    written: Written

    @initialize(seed=st.integers(0, 2**32), batch=st.sampled_from([1, 2, 5, 1000]))
    def begin(self, seed: int, batch: int) -> None:
        self.written = Written(random.Random(seed), batch_entries_max=batch)

    @rule(
        writes=st.lists(
            st.dictionaries(
                st.sampled_from(KEYS), st.one_of(st.none(), st.binary(max_size=2)), max_size=4
            ),
            min_size=1,
            max_size=4,
        )
    )
    def commit(self, writes: list[dict[bytes, bytes | None]]) -> None:
        for each in writes:
            self.written.commit(each)

    @rule(back=st.integers(0, 6))
    def begin_reading(self, back: int) -> None:
        view = max(self.written.horizon, self.written.last_commit - back)
        self.written.views.append(view)

    @precondition(lambda self: self.written.views)
    @rule(which=st.integers(0, 100))
    def end_reading(self, which: int) -> None:
        del self.written.views[which % len(self.written.views)]

    @rule(window=st.integers(0, 8), entries_max=st.sampled_from([0, 1, 3, 1000]))
    def checkpoint(self, window: int, entries_max: int) -> None:
        horizon = max(0, self.written.last_commit - window)
        self.written.checkpoint(horizon=horizon, garbage_entries_max=entries_max)

    @rule(window=st.integers(0, 8), writes=st.integers(1, 30))
    def checkpoint_ended_by_a_power_loss(self, window: int, writes: int) -> None:
        left = writes

        def count_down() -> None:
            nonlocal left
            left -= 1
            self.written.check_keys(self.written.last_commit)
            if left == 0:
                raise PowerLoss

        self.written.store.before_write = count_down
        try:
            self.checkpoint(window, 1000)
        except PowerLoss:
            pass
        self.lose_power()

    @rule()
    def lose_power(self) -> None:
        self.written = self.written.crash()

    @invariant()
    def every_view_reads_what_it_should(self) -> None:
        self.written.check(with_streams=False)

    def teardown(self) -> None:
        # Without readers and after the window has passed, only the newest values are left.
        if not hasattr(self, "written"):
            return
        written = self.written
        written.views = []
        last = written.last_commit
        written.checkpoint(horizon=last)
        while not written.checkpoint(horizon=last).garbage.complete:
            pass
        assert written.entries(Family.HISTORY) == []
        assert written.entries(Family.CHANGES) == []
        assert written.retained() == 0
        newest = written.truth.scan(b"", None, last)
        assert [key for key, _ in written.entries(Family.LATEST)] == [key for key, _ in newest]


TestGarbageMachine = pytest.mark.slow(GarbageMachine.TestCase)
TestGarbageMachine.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
