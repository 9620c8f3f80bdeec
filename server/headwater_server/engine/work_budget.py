"""The bound on the work of one request, and the points at which others are served meanwhile.

Most parts of a request are a single look-up. Some are not: conditions, ranges, searches, and the
check of what a transaction has read. All of them charge the same budget. A request that uses it up
is refused with `too_large` and changes nothing.

The unit is one event or key that is read, about 4 µs as pure Python. An entry of an index costs a
quarter of that.

    begin ---- AT_ONCE_MAX ---> InSteps: again from the start, in steps
    begin -- STEP_MAX, pause -- STEP_MAX, pause -- ... --> end

A request is evaluated in one stretch first, since nearly all are short. One that is not is begun
again, in steps: after each the engine calls `Cutting.pause`, which returns once others were served.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from headwater_protocol.errors import TooLarge

WORK_MAX: Final = 200_000
"""Units of work that one request may take. Reading that many events from the files took 1 s,
uncompiled on a busy machine, and blocks all other clients."""

ENTRIES_PER_UNIT: Final = 4
"""Entries of an index that cost as much as one event: a seek takes 0.3 to 1.2 µs."""

SEARCHED_MAX: Final = 10_000
"""Units that the conditions of a request may take in one stretch, about 40 ms. Above that they are
searched ahead in pages."""

AT_ONCE_MAX: Final = 10_000
"""Units that a request may take in one stretch, about 40 ms."""

STEP_MAX: Final = 500
"""Units between two pauses, about 2 ms."""

WRITES_AT_ONCE_MAX: Final = 5_000
"""Writes, and events, that are planned in one stretch, about 50 ms."""


class Phase:
    """What the units of a budget are spent on.

    A class and not a tuple: compiled code copies tuples, so `is` would not find the same one.

    Attributes:
        name: for the error of a request that takes too many.
        remedy: what helps.
    """

    __slots__ = ("name", "remedy")

    def __init__(self, name: str, remedy: str) -> None:
        self.name = name
        self.remedy = remedy


CONDITIONS: Final = Phase(
    "the check of a condition",
    "give a later position or commit, or query by types and tags",
)
VALIDATION: Final = Phase(
    "the check whether the transaction's reads have changed since it began",
    "begin it again, commit it sooner, or query by stream, category, types and tags",
)
READS: Final = Phase("the reads of an execute", "read in smaller parts")
WRITES: Final = Phase("the writes of a transaction", "write in several transactions")
RANGE_DELETES: Final = Phase(
    "the range deletes of a transaction",
    "delete the ranges in several transactions",
)


class SearchAhead(Exception):
    """The conditions take too long for one stretch: search ahead, then try again."""


class InSteps(Exception):
    """The request takes too long for one stretch, and has changed nothing: begin it in steps."""


class Cutting(NamedTuple):
    """How a request is cut into steps.

    Attributes:
        pause: returns after others were served. None: in one stretch, or raise InSteps.
        interrupt: called, outside of the request, before anything changes that a plan depends on.
            After it, `pause` does not return, and the request is begun again.
    """

    pause: Callable[[], None] | None = None
    interrupt: Callable[[], None] | None = None


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
        phase: what the next units are for.
    """

    __slots__ = (
        "_cut_after",
        "_cutting",
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
        phase: Phase,
        *,
        work_max: int | None = None,
        proven: Mapping[Any, int] | None = None,
        cutting: Cutting | None = None,
    ) -> None:
        """*cutting*: None if the request has to be done in one stretch."""
        self.phase = phase
        self.proven = proven
        self.work_max = WORK_MAX if work_max is None else work_max
        self.left = self.work_max
        self._floor = 0 if proven is None or proven else max(0, self.left - SEARCHED_MAX)
        self.events = 0
        self.keys = 0
        self.entries = 0
        self.deleted = 0
        self._cutting = cutting
        self._cut_after = 0
        if cutting is not None:
            self._cut_after = AT_ONCE_MAX if cutting.pause is None else STEP_MAX

    @property
    def in_steps(self) -> bool:
        """Whether the request is evaluated in steps."""
        return self._cutting is not None and self._cutting.pause is not None

    @property
    def entries_left(self) -> int:
        """Entries of indexes that may still be looked at; at least one, to find out."""
        return max(1, (self.left - self._floor) * ENTRIES_PER_UNIT)

    def spend(self, *, events: int = 0, keys: int = 0, entries: int = 0, deleted: int = 0) -> None:
        """Count work that was done. Call this for each batch.

        Raises:
            TooLarge: the budget is used up.
            SearchAhead: see `proven`.
            InSteps: see the module.
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
        if self._cut_after:
            self.step(units)
        if self.left < 0:
            counts = (
                (self.events, "events"),
                (self.keys, "keys"),
                (self.entries, f"entries of indexes ({ENTRIES_PER_UNIT} count as one)"),
                (self.deleted, "keys in deleted ranges"),
            )
            told = ", ".join(f"{count} {name}" for count, name in counts if count)
            raise TooLarge(
                f"{self.phase.name}: the request would look at {told} or more; allowed are "
                f"{self.work_max} together; {self.phase.remedy}"
            )

    def step(self, units: int) -> None:
        """Count work that has a bound of its own. It is not part of the bound of the budget.

        Raises:
            InSteps: see the module.
        """
        if not self._cut_after:
            return
        if units < self._cut_after:
            self._cut_after -= units
            return
        cutting = self._cutting
        assert cutting is not None, "it has steps"
        if cutting.pause is None:
            raise InSteps
        self._cut_after = STEP_MAX
        cutting.pause()
