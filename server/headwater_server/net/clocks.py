"""The machine's clocks, in microseconds. The hot path asks them, so this module is compiled."""

import time
from typing import Final

# macOS counts sleep in its monotonic clock; Linux has a clock of its own for that.
_MONOTONIC: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_clock() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def monotonic_clock() -> int:
    """Microseconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime_ns(_MONOTONIC) // 1000
