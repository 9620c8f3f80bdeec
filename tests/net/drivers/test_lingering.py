"""Lingering, with a clock and a wait of the test's own."""

from headwater_server.net.drivers.lingering import (
    LEFT_OUT_MAX,
    ROW_S_MAX,
    ROW_WAITS_MAX,
    WAIT_S,
    Lingering,
)


class Waits:
    """A clock, and waits that take *takes_s* each and find a request while *busy*."""

    def __init__(self, *, busy: bool, takes_s: float = 0.0) -> None:
        self.busy = busy
        self.takes_s = takes_s
        self.now_s = 100.0
        self.lengths_s: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.lengths_s.append(seconds)
        self.now_s += self.takes_s if self.busy else seconds
        return self.busy

    def lingering(self) -> Lingering:
        return Lingering(self.wait, lambda: self.now_s)


def row(lingering: Lingering) -> int:
    """The requests that come in a row."""
    count = 0
    if lingering.begin_row():
        while lingering.comes():
            count += 1
    return count


def test_a_busy_client_cannot_keep_the_event_loop_from_running() -> None:
    waits = Waits(busy=True, takes_s=ROW_S_MAX / 10)
    began_s = waits.now_s
    assert 9 <= row(waits.lingering()) <= 11
    assert waits.now_s - began_s <= ROW_S_MAX + waits.takes_s
    assert set(waits.lengths_s) == {WAIT_S}


def test_a_row_ends_even_if_the_clock_stands_still() -> None:
    waits = Waits(busy=True)
    assert row(waits.lingering()) == ROW_WAITS_MAX


def test_after_waits_in_vain_fewer_and_fewer_rows_wait_at_all() -> None:
    waits = Waits(busy=False)
    lingering = waits.lingering()
    rows = 20 * LEFT_OUT_MAX
    assert sum(row(lingering) for _ in range(rows)) == 0
    # 1, 2, 4, ... rows are left out, and then LEFT_OUT_MAX each time.
    assert len(waits.lengths_s) <= rows / LEFT_OUT_MAX + LEFT_OUT_MAX.bit_length()


def test_a_client_that_becomes_busy_is_waited_for_again() -> None:
    waits = Waits(busy=False)
    lingering = waits.lingering()
    for _ in range(20 * LEFT_OUT_MAX):
        row(lingering)
    waits.busy = True
    assert sum(row(lingering) for _ in range(LEFT_OUT_MAX + 1)) > 0
    assert row(lingering) == ROW_WAITS_MAX
    # One wait in vain then leaves out one row, not as many as before.
    waits.busy = False
    row(lingering)
    waits.busy = True
    assert [row(lingering) for _ in range(2)] == [0, ROW_WAITS_MAX]
