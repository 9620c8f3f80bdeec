"""The bound on the work of one request.

The engine evaluates a request without interruption, so all other clients wait for it. Most parts of
a request are a single look-up. Some are not: conditions, ranges, searches, and the check of what a
transaction has read. All of them charge the same budget. A request that uses it up is refused with
`too_large` and changes nothing.

The unit is one event or key that is read, about 4 µs as pure Python. An entry of an index costs a
quarter of that.
"""

from collections.abc import Mapping
from typing import Any, Final

from headwater_protocol.errors import TooLarge

WORK_MAX: Final = 200_000
"""Units of work that one request may take. Reading that many events from the files took 1 s,
uncompiled on a busy machine, and blocks all other clients."""

ENTRIES_PER_UNIT: Final = 4
"""Entries of an index that cost as much as one event: a seek takes 0.3 to 1.2 µs."""

SEARCHED_MAX: Final = 10_000
"""Units that the conditions of a request may take in one stretch, about 40 ms. Above that they are
searched ahead in pages."""

CONDITIONS: Final = (
    "the check of a condition",
    "give a later position or commit, or query by types and tags",
)
VALIDATION: Final = (
    "the check whether the transaction's reads have changed since it began",
    "begin it again, commit it sooner, or query by stream, category, types and tags",
)
READS: Final = ("the reads of an execute", "read in smaller parts")
RANGE_DELETES: Final = (
    "the range deletes of a transaction",
    "delete the ranges in several transactions",
)


class SearchAhead(Exception):
    """The conditions take too long for one stretch: search ahead, then try again."""


class WorkBudget:
    """Counts the work of one request.

    Attributes:
        events: events that were read, to check them or to return them.
        keys: keys that were looked up or met in a range.
        entries: entries of indexes that a search has met.
        deleted: keys that range deletes have found.
        left: units that may still be used; negative once the budget is exceeded.
        proven: for a filter and a position, up to where no event is known to match. None: this
            request cannot be tried again. Empty: nothing was searched yet, so SearchAhead is raised
            instead of spending more than SEARCHED_MAX on conditions.
        phase: what the next units are for, and what helps if they are too many: for the error.
    """

    __slots__ = (
        "_floor",
        "deleted",
        "entries",
        "events",
        "keys",
        "left",
        "phase",
        "proven",
        "work_max",
    )

    def __init__(
        self,
        phase: tuple[str, str],
        *,
        work_max: int | None = None,
        proven: Mapping[Any, int] | None = None,
    ) -> None:
        self.phase = phase
        self.proven = proven
        self.work_max = WORK_MAX if work_max is None else work_max
        self.left = self.work_max
        self._floor = 0 if proven is None or proven else max(0, self.left - SEARCHED_MAX)
        self.events = 0
        self.keys = 0
        self.entries = 0
        self.deleted = 0

    @property
    def entries_left(self) -> int:
        """Entries of indexes that may still be looked at; at least one, to find out."""
        return max(1, (self.left - self._floor) * ENTRIES_PER_UNIT)

    def spend(self, *, events: int = 0, keys: int = 0, entries: int = 0, deleted: int = 0) -> None:
        """Count work that was done. Call this for each batch.

        Raises:
            TooLarge: the budget is used up.
            SearchAhead: see `proven`.
        """
        self.events += events
        self.keys += keys
        self.entries += entries
        self.deleted += deleted
        units = events + keys + deleted
        if entries:
            units += 1 + entries // ENTRIES_PER_UNIT
        self.left -= units
        if self._floor and self.left < self._floor and self.phase is CONDITIONS:
            raise SearchAhead
        if self.left < 0:
            counts = (
                (self.events, "events"),
                (self.keys, "keys"),
                (self.entries, f"entries of indexes ({ENTRIES_PER_UNIT} count as one)"),
                (self.deleted, "keys in deleted ranges"),
            )
            told = ", ".join(f"{count} {name}" for count, name in counts if count)
            raise TooLarge(
                f"{self.phase[0]}: the request would look at {told} or more; allowed are "
                f"{self.work_max} together; {self.phase[1]}"
            )
