"""How a checkpoint yields the GIL to the server."""

import itertools
import random

import pytest

from headwater_server.engine.checkpoint.checkpoint import write_checkpoint
from headwater_server.engine.pacing import (
    FILL_AT_END,
    RESTS_MAX,
    RESTS_MIN,
    SLICE_S,
    WORK_S_GUESSED,
    Pacer,
)
from tests.engine.written import Written


class Thread:
    """A thread that works and sleeps, and its clock.

    Attributes:
        fill_per_s: how much of a memtable is committed in a second.
    """

    def __init__(self, fill_per_s: float = 0.0) -> None:
        self.now = 0.0
        self.slept = 0.0
        self.base_fill = 0.0
        self.fill_per_s = fill_per_s
        self.pacer = Pacer(lambda: self.now, self._sleep, self.fill)

    def fill(self) -> float:
        return self.base_fill + self.fill_per_s * self.now

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.now += seconds
        self.slept += seconds

    def work(self, seconds: float) -> float:
        """Work in small steps; return the seconds slept in between."""
        before = self.slept
        for _ in range(round(seconds / (SLICE_S / 8))):
            self.now += SLICE_S / 8
            self.pacer()
        return self.slept - before

    def checkpoint(self, seconds: float, frozen_fill: float = 1.0) -> float:
        """A checkpoint with so much work; returns how full the active memtable is at its end."""
        self.base_fill = -self.fill_per_s * self.now
        self.pacer.begin(frozen_fill)
        self.work(seconds)
        self.pacer.end(frozen_fill)
        return self.fill()


def test_a_checkpoint_mostly_sleeps_while_little_is_committed() -> None:
    assert Thread(fill_per_s=0.001).work(1.0) == pytest.approx(RESTS_MAX, rel=0.05)


def test_a_checkpoint_mostly_sleeps_while_nothing_is_committed() -> None:
    assert Thread().work(1.0) == pytest.approx(RESTS_MAX, rel=0.05)


@pytest.mark.parametrize("work_s", [WORK_S_GUESSED / 2, WORK_S_GUESSED, 2 * WORK_S_GUESSED])
@pytest.mark.parametrize("share", [0.25, 0.35, 0.45])
def test_a_checkpoint_ends_on_schedule_at_any_speed(work_s: float, share: float) -> None:
    # The pacer used to plan for the time of a whole memtable in every case. So it slept too long at
    # first, and later not at all.
    thread = Thread(fill_per_s=FILL_AT_END * share / work_s)
    thread.checkpoint(work_s)
    assert thread.checkpoint(work_s) == pytest.approx(FILL_AT_END, rel=0.05)


def test_the_sleeps_of_a_checkpoint_are_spread_evenly() -> None:
    thread = Thread(fill_per_s=1.0)
    thread.checkpoint(0.3)
    thread.base_fill = -thread.now
    thread.pacer.begin(1.0)
    slept = [thread.work(0.03) for _ in range(10)]
    assert min(slept) > 0.7 * max(slept)


def test_the_expected_work_depends_on_how_full_the_memtable_is() -> None:
    thread = Thread(fill_per_s=1.0)
    thread.checkpoint(0.2)
    assert thread.checkpoint(0.3, frozen_fill=1.5) == pytest.approx(FILL_AT_END, rel=0.05)


def test_a_small_checkpoint_says_nothing_about_large_ones() -> None:
    thread = Thread(fill_per_s=1.0)
    thread.checkpoint(0.3)
    thread.checkpoint(0.15, frozen_fill=0.01)
    assert thread.checkpoint(0.3) == pytest.approx(FILL_AT_END, rel=0.05)


def test_a_checkpoint_with_more_work_than_expected_is_paced_by_the_fill() -> None:
    thread = Thread(fill_per_s=1.0)
    thread.checkpoint(0.1)
    assert thread.checkpoint(0.3) < 1.25, "writers wait at 2"


def test_a_late_checkpoint_sleeps_a_little_until_the_next_memtable_is_full() -> None:
    thread = Thread()
    thread.base_fill = 0.9
    assert thread.work(1.0) == pytest.approx(RESTS_MIN, rel=0.05)


@pytest.mark.parametrize("fill", [1.0, 1.5])
def test_a_checkpoint_does_not_sleep_when_writers_may_soon_wait(fill: float) -> None:
    thread = Thread()
    thread.base_fill = fill
    assert thread.work(1.0) == 0.0


def test_a_slice_that_the_disk_made_long_does_not_lengthen_the_sleep() -> None:
    thread = Thread()
    thread.now += 60.0
    thread.pacer()
    assert thread.slept <= 2 * SLICE_S * RESTS_MAX


def test_a_checkpoint_yields_the_gil_regularly() -> None:
    source = random.Random(5)
    written = Written(source)
    for number in range(2000):
        key = b"key %d" % source.randrange(500)
        written.commit({key: b"value %d" % number}, [(f"stream-{number % 50}", "happened", None)])
    written.begin_checkpoint()
    assert written.state.frozen is not None
    calls: list[str] = []
    written.store.before_write = lambda: calls.append("write")
    written.stored_state.horizon = 1000
    write_checkpoint(
        written.state.frozen,
        written.stored_state,
        horizon=1000,
        views=[],
        garbage_entries_max=1000,
        forget_before=0,
        log_index=0,
        yield_gil=lambda: calls.append("yield"),
        batch_entries_max=16,
    )
    # It yields while it writes the logs, before the first batch, and then between most batches.
    assert calls.index("write") >= 2 * 2000 // 256
    assert calls.count("write") > 100
    together = [pair for pair in itertools.pairwise(calls) if pair == ("write", "write")]
    assert len(together) < calls.count("write") / 10
