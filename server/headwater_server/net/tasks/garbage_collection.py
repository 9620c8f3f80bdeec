"""Garbage collection: when Python looks for cycles of objects that nothing refers to any more.

    replay        young objects seldom     what a replay makes stays in the memtable
    start         freeze                   what is there stays until the end; never looked at
    under load    young objects alone      0.2 ms each
    quiet times   everything               what lived long enough to leave the young objects

Nearly everything here is freed by its reference count, and the collector finds nothing. Yet it
looks at each object that it knows, and a memtable is hundreds of thousands of them: to look at the
middle generation stopped the event loop for 42 to 59 ms, once in each memtable. So Python leaves
the two older generations alone, and `GarbageCollection` collects them when nobody waits for it. A
server that is never quiet collects all the same after a while, or when its memory has grown:
cycles must not gather for ever.
"""

import gc
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from headwater_protocol.limits import MIB

_NEVER: Final = 2**31 - 1

YOUNG_OBJECTS: Final = 10_000
"""Objects made, less those freed, after which the youngest generation is collected."""

_SERVING: Final = (YOUNG_OBJECTS, _NEVER, _NEVER)

_REPLAYING: Final = (500_000, _NEVER, _NEVER)
"""Looking once at each object that a replay makes was an eighth of it. Cycles that a long one may
have are still found while they are young."""

QUIET_INTERVAL_S: Final = 10.0
"""Seconds between two full collections of quiet times."""

LOADED_INTERVAL_S: Final = 300.0
"""Seconds without a quiet moment after which everything is collected, as soon as no checkpoint
runs: it holds up all requests for some 50 ms."""

INTERVAL_S_MAX: Final = 2 * LOADED_INTERVAL_S
"""Seconds after which it is done beside a checkpoint, too."""

GROWTH_SIZE_MAX: Final = 128 * MIB
"""Bytes by which the process may have grown since the last full collection, before there is one in
any case. Ordinary load reaches its size once and keeps it; cycles that gather go beyond it."""


def peak_memory() -> int:
    """The most bytes of memory that the process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, all others in KiB.
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def replaying() -> Iterator[None]:
    """While a log is replayed: look at young objects seldom, at older ones not at all.

    What exists at its end is not looked at afterwards, either.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_REPLAYING)
    try:
        yield
        # First, since the old thresholds would have all that was made looked at once.
        gc.freeze()
    finally:
        gc.set_threshold(*before)


class GarbageCollection:
    """Collects cycles while the server serves.

    Args:
        monotonic: seconds from any beginning.
        peak_memory: the most bytes that the process ever had.
    """

    def __init__(
        self, monotonic: Callable[[], float], peak_memory: Callable[[], int] = peak_memory
    ) -> None:
        self._monotonic = monotonic
        self._peak_memory = peak_memory
        self._peak = peak_memory()
        self._collected_at = monotonic()
        self._young_at_full = self._young_at_tick = _young_collections()

    def start(self) -> None:
        """Exclude all objects that exist, and from now on collect young objects alone."""
        gc.freeze()
        gc.set_threshold(*_SERVING)

    def tick(self, *, checkpoint_runs: bool) -> None:
        """Collect everything if the time is right. To be called about once a second."""
        young = _young_collections()
        quiet = young == self._young_at_tick
        self._young_at_tick = young
        if young == self._young_at_full:
            # What nobody has looked at yet is young, and is looked at before it gets old.
            return
        passed = self._monotonic() - self._collected_at
        if quiet:
            wait = QUIET_INTERVAL_S
        else:
            wait = INTERVAL_S_MAX if checkpoint_runs else LOADED_INTERVAL_S
        if passed >= wait or self._peak_memory() - self._peak >= GROWTH_SIZE_MAX:
            gc.collect()
            self._peak = self._peak_memory()
            self._collected_at = self._monotonic()
            self._young_at_full = self._young_at_tick = _young_collections()


def _young_collections() -> int:
    """How often the youngest generation was collected: a measure of the objects made."""
    collections: int = gc.get_stats()[0]["collections"]
    return collections
