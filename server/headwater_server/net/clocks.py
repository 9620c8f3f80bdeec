"""The machine's clocks, in microseconds. The hot path reads them, so this module is compiled."""

import time
from typing import Final

# The monotonic clock of macOS counts sleep; on Linux that is a separate clock.
_MONOTONIC: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_clock() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def monotonic_clock() -> int:
    """Microseconds of a clock that is never set, and that counts time asleep."""
    return time.clock_gettime_ns(_MONOTONIC) // 1000


def monotonic_seconds() -> float:
    """The same, in seconds."""
    return time.clock_gettime(_MONOTONIC)
