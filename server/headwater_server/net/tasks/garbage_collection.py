"""Garbage collection: when Python looks for reference cycles.

    replay        young generation, seldom   the objects of a replay stay in the memtable
    start         freeze                     existing objects live as long as the process
    under load    young generation           0.2 ms each
    idle          all generations            objects that outlived the young generation

Reference counting frees nearly all objects here, and the collector finds almost nothing. Yet it
visits every object, and a memtable has hundreds of thousands: collecting the middle generation
stopped the event loop for 42 to 59 ms, once in each memtable. So Python collects only the young
generation, and `GarbageCollection` collects the others while the server is idle. A server that is
never idle collects them too, after some time or when its memory has grown; otherwise cycles would
accumulate.
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
"""Objects created minus objects freed at which the young generation is collected."""

_SERVING: Final = (YOUNG_OBJECTS, _NEVER, _NEVER)

_REPLAYING: Final = (500_000, _NEVER, _NEVER)
"""The same during a replay. Visiting each of its objects once took an eighth of its time. Cycles
of a long replay are still found while they are young."""

QUIET_INTERVAL_S: Final = 10.0
"""Seconds between two full collections while the server is idle."""

LOADED_INTERVAL_S: Final = 300.0
"""Seconds without an idle moment after which everything is collected, once no checkpoint runs. It
stops all requests for some 50 ms."""

INTERVAL_S_MAX: Final = 2 * LOADED_INTERVAL_S
"""Seconds after which this happens even during a checkpoint."""

GROWTH_SIZE_MAX: Final = 128 * MIB
"""Bytes by which the process may grow before a full collection is forced. Under ordinary load its
size stays constant after some time; accumulating cycles make it grow further."""


def peak_memory() -> int:
    """The peak memory of the process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, all others in KiB.
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def replaying() -> Iterator[None]:
    """During a replay: collect the young generation seldom, and the older ones never.

    The objects that exist at its end are excluded from later collections, too.
    """
    before = gc.get_threshold()
    gc.set_threshold(*_REPLAYING)
    try:
        yield
        # Freeze first: with the old thresholds, Python would visit all new objects once.
        gc.freeze()
    finally:
        gc.set_threshold(*before)


class GarbageCollection:
    """Collects cycles while the server serves.

    Args:
        monotonic: a clock in seconds, from any start.
        peak_memory: the peak memory of the process in bytes.
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
        """Exclude all existing objects, and from now on collect the young generation only."""
        gc.freeze()
        gc.set_threshold(*_SERVING)

    def tick(self, *, checkpoint_runs: bool) -> None:
        """Collect everything if it is time to. Call it about once a second."""
        young = _young_collections()
        quiet = young == self._young_at_tick
        self._young_at_tick = young
        if young == self._young_at_full:
            # No object has left the young generation since the last full collection.
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
    """How often the young generation was collected: a measure of created objects."""
    collections: int = gc.get_stats()[0]["collections"]
    return collections
