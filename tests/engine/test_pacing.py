"""How a checkpoint gives way to the server."""

import itertools
import random

import pytest

from headwater_server.engine.checkpoint import write_checkpoint
from headwater_server.engine.pacing import RESTS_MAX, SLICE_S, Pacer
from tests.engine.written import Written


class Thread:
    """A thread that works and sleeps, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0
        self.fill = 0.0
        self.pacer = Pacer(lambda: self.now, self._sleep, lambda: self.fill)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0.0
        self.now += seconds
        self.slept += seconds

    def work(self, seconds: float) -> float:
        """Work in small steps; returns for how long it slept meanwhile."""
        before = self.slept
        for _ in range(round(seconds / (SLICE_S / 8))):
            self.now += SLICE_S / 8
            self.pacer()
        return self.slept - before


def test_while_little_is_committed_it_mostly_sleeps() -> None:
    assert Thread().work(1.0) == pytest.approx(RESTS_MAX, rel=0.05)


def test_the_more_is_committed_the_less_it_sleeps() -> None:
    thread = Thread()
    slept = []
    for fill in (0.0, 0.25, 0.5, 0.75, 0.99):
        thread.fill = fill
        slept.append(thread.work(1.0))
    assert slept == sorted(slept, reverse=True)
    assert slept[-1] < 0.05 * RESTS_MAX


@pytest.mark.parametrize("fill", [1.0, 1.5])
def test_it_does_not_sleep_when_writers_would_have_to_wait(fill: float) -> None:
    thread = Thread()
    thread.fill = fill
    assert thread.work(1.0) == 0.0


def test_a_slice_that_the_disk_made_long_is_not_slept_for() -> None:
    thread = Thread()
    thread.now += 60.0
    thread.pacer()
    assert thread.slept <= 2 * SLICE_S * RESTS_MAX


def test_a_checkpoint_gives_way_all_the_time() -> None:
    source = random.Random(5)
    written = Written(source)
    for number in range(2000):
        key = b"key %d" % source.randrange(500)
        written.commit({key: b"value %d" % number}, [(f"stream-{number % 50}", "happened", None)])
    written.begin_checkpoint()
    assert written.state.frozen is not None
    said: list[str] = []
    written.store.before_write = lambda: said.append("write")
    written.checkpointed.horizon = 1000
    write_checkpoint(
        written.state.frozen,
        written.checkpointed,
        horizon=1000,
        views=[],
        garbage_entries_max=1000,
        forget_before=0,
        log_index=0,
        give_way=lambda: said.append("give way"),
        batch_entries_max=16,
    )
    # Beside the logs, which come before the first batch, and then between most batches.
    assert said.index("write") >= 2 * 2000 // 256
    assert said.count("write") > 100
    together = [pair for pair in itertools.pairwise(said) if pair == ("write", "write")]
    assert len(together) < said.count("write") / 10
