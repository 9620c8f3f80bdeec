from headwater_server.engine.log_clock import LogClock


class Ticking:
    """A clock that moves on by one microsecond whenever it is read."""

    def __init__(self) -> None:
        self.time = 1_000

    def __call__(self) -> int:
        self.time += 1
        return self.time


def clock_of(wall: Ticking) -> LogClock:
    return LogClock(wall, wall, jump_us_max=1_000_000, newest=0)


def test_a_held_clock_is_read_once_until_it_is_released() -> None:
    wall = Ticking()
    clock = clock_of(wall)
    before = clock.now()
    clock.hold()
    assert wall.time == before, "holding alone reads nothing"
    held = clock.now()
    assert held > before
    assert [clock.now() for _ in range(3)] == [held] * 3
    clock.release()
    assert clock.now() > held


def test_a_clock_that_was_held_before_is_read_again() -> None:
    clock = clock_of(Ticking())
    times: list[int] = []
    for _ in range(3):
        clock.hold()
        times += (clock.now(), clock.now())
        clock.release()
    assert times == sorted(times)
    assert len(set(times)) == 3
