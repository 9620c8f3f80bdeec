"""The memory budget: one bound on the memory that all connections together use.

A connection holds received bytes that were not served yet (an incomplete frame, requests that wait
for their turn) and output that the client has not read. FREE_SIZE of this is free, so most
connections are never charged. Anything above it is charged to the budget.

    used   0 ............ resume ............ pause ............ size_max
                             |                  |                    |
                 paused ones are read again     |      the largest is closed
                          above its fair share: not read from; unauthenticated: closed

Transactions, subscriptions and consumer groups are not charged to a connection here. They have
bounds of their own, and what they hold makes less room for connections, down to half of size_max.

The fair share of a connection is the pause mark divided by the number of charged connections.
While connections are paused, one whose frame or output does not move for `stalled_s_max` is closed,
so the budget cannot be held forever. Otherwise it is closed after `unmoved_s_max`. A connection
within its free allowance is never affected.
"""

import heapq
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from headwater_protocol.errors import TooMany
from headwater_protocol.limits import KIB, MIB

_log = structlog.get_logger(__name__)

FREE_SIZE: Final = 4 * KIB
"""Bytes that a connection may hold without being charged: nearly all requests and answers."""

CANDIDATES_MAX: Final = 64
"""The largest connections that are remembered when one has to be closed."""

SIZE_DEFAULT_MAX: Final = 1024 * MIB
"""Bytes of the default budget, however much memory the machine has."""

SIZE_MIN: Final = 64 * MIB
"""Bytes of the smallest budget: a few of the largest requests and answers fit."""

_CGROUP_LIMIT: Final = "/sys/fs/cgroup/memory.max"


def default_size(cgroup_limit: str = _CGROUP_LIMIT) -> int:
    """A quarter of the memory of the machine or of its container, at most SIZE_DEFAULT_MAX."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path(cgroup_limit).read_text().strip()
    except OSError:
        limit = "max"
    if limit.isdigit():
        memory = min(memory, int(limit))
    return max(SIZE_MIN, min(memory // 4, SIZE_DEFAULT_MAX))


class Holder(Protocol):
    """A connection, as the budget sees it."""

    @property
    def authenticated(self) -> bool:
        """Whether the client has said hello and, if required, authenticated."""
        ...

    def pause(self) -> None:
        """Read nothing more from the client until `resume`."""
        ...

    def resume(self) -> None:
        """There is room again: read from the client."""
        ...

    def end_over_budget(self, error: TooMany) -> None:
        """Free the memory, tell the client why, and close."""
        ...


class MemoryBudget:
    """Charges connections for the memory that they use.

    Attributes:
        size_max: bound on the sum of all charges, in bytes.
        used: the sum of all charges now, in bytes.
        others: bytes that transactions, subscriptions and groups hold, when they were last counted.
    """

    def __init__(
        self,
        size_max: int,
        *,
        stalled_s_max: float,
        unmoved_s_max: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._unmoved_s_max = unmoved_s_max
        self.size_max = size_max
        self.used = 0
        self.others = 0
        self._room = self._pause_size = self._resume_size = 0
        self.note_others(0)
        self._stalled_s_max = stalled_s_max
        self._monotonic = monotonic
        self._charged: dict[Holder, int] = {}
        self._moved_at: dict[Holder, float] = {}
        self._paused: dict[Holder, None] = {}
        self._candidates: list[Holder] = []

    def note_others(self, size: int, connections: int = 0) -> None:
        """Transactions, subscriptions and groups hold *size* bytes, beside so many connections."""
        self.others = size
        free = connections * FREE_SIZE
        self._room = self.size_max - min(size + free, self.size_max // 2)
        self._pause_size = self._room * 3 // 4
        self._resume_size = self._room // 2

    def check_others(self, what: str) -> None:
        """Refuse to open *what* if transactions, subscriptions and groups hold too much.

        Raises:
            TooMany: they hold half of the budget.
        """
        if self.others > self.size_max // 2:
            raise TooMany(
                f"{what}: {self.others} bytes are held for transactions, subscriptions and groups; "
                f"allowed are {self.size_max // 2}; try again later"
            )

    def hold(self, holder: Holder, size: int, *, moved: bool) -> bool:
        """Record that *holder* holds *size* bytes; return whether it is charged.

        *moved*: the client made progress, by sending more of a frame or reading output.
        """
        charge = size if size > FREE_SIZE else 0
        before = self._charged.get(holder, 0)
        if charge:
            self._charged[holder] = charge
            if moved or not before:
                self._moved_at[holder] = self._monotonic()
        elif before:
            del self._charged[holder], self._moved_at[holder]
            if holder in self._paused:
                del self._paused[holder]
                holder.resume()
        self.used += charge - before
        if charge > before and self.used > self._pause_size:
            self._press(holder)
        elif charge < before and self._paused and self.used <= self._resume_size:
            self._resume()
        return holder in self._charged

    def _press(self, holder: Holder) -> None:
        """Pause or close connections: *holder* has grown, and the budget is nearly used up."""
        if not holder.authenticated:
            self._end(holder, "this connection is not authenticated")
        elif self._charged[holder] > self._fair_share and holder not in self._paused:
            self._paused[holder] = None
            holder.pause()
        while self.used > self._room:
            # It is above the average, so a connection within its share is safe.
            self._end(self._largest(), f"the fair share is {self._fair_share} bytes")

    def _largest(self) -> Holder:
        """The largest connection, or one of the largest that is still above its fair share."""
        while self._candidates:
            holder = self._candidates.pop()
            if self._charged.get(holder, 0) > self._fair_share:
                return holder
        # Thousands may have to be closed in a row, so look through all only now and then.
        largest = heapq.nlargest(CANDIDATES_MAX, self._charged, key=self._eviction_order)
        self._candidates = largest[:0:-1]
        return largest[0]

    @property
    def _fair_share(self) -> int:
        return self._pause_size // len(self._charged)

    def _eviction_order(self, holder: Holder) -> tuple[bool, int]:
        return not holder.authenticated, self._charged[holder]

    def _resume(self) -> None:
        paused, self._paused = self._paused, {}
        for holder in paused:
            holder.resume()

    def end_stalled(self) -> None:
        """Close connections without progress for too long; sooner while the budget is used up."""
        for holder in self._unmoved_for(self._unmoved_s_max):
            held = f"{self._charged[holder]} bytes are held for this connection, and "
            self._tell(holder, f"{held}it did not move for {self._unmoved_s_max:g} s")
        if not self._paused and self.used <= self._pause_size:
            return
        stalled = self._unmoved_for(self._stalled_s_max)
        for holder in sorted(stalled, key=self._eviction_order, reverse=True):
            if self.used <= self._resume_size:
                return
            if holder in self._charged:
                self._end(holder, f"it did not move for {self._stalled_s_max:g} s")

    def _unmoved_for(self, seconds: float) -> list[Holder]:
        since = self._monotonic() - seconds
        return [holder for holder, moved_at in self._moved_at.items() if moved_at <= since]

    def _end(self, holder: Holder, why: str) -> None:
        size = self._charged[holder]
        self._tell(
            holder,
            f"{size} bytes are held for this connection, and the memory for all connections "
            f"({self.size_max} bytes) is used up; {why}",
        )

    def _tell(self, holder: Holder, why: str) -> None:
        holder.end_over_budget(TooMany(why))
        assert holder not in self._charged, "a connection that was ended holds nothing"
