"""The bound on what one commit may look at while it is checked against others.

A commit is checked in one stretch, and every other client waits until that is done. Most checks are
a look-up. These are not: ranges, queries that no index answers, and queries over streams from which
a rule of retention removes events. They count what they look at here.
"""

from typing import Final

from headwater_protocol.errors import TooLarge

LOOKED_AT_MAX: Final = 400_000
"""Events, keys and entries of indexes that the checks of one commit may look at together. To look
at as many events of the files took 2 s as Python on a busy machine, and nobody else is served
meanwhile."""


class ValidationBudget:
    """Counts what the checks of one commit look at.

    *checked* and *advice* are parts of the error's message: what is checked, and what to do.
    """

    __slots__ = ("_advice", "_checked", "_events", "_keys", "left")

    def __init__(self, checked: str, advice: str, *, looked_at_max: int | None = None) -> None:
        self._checked = checked
        self._advice = advice
        self._events = 0
        self._keys = 0
        self.left = LOOKED_AT_MAX if looked_at_max is None else looked_at_max

    def spend(self, *, events: int = 0, keys: int = 0) -> None:
        """Count events or entries of their indexes, or keys; called before or after each batch.

        Raises:
            TooLarge: that makes too many.
        """
        self._events += events
        self._keys += keys
        self.left -= events + keys
        if self.left < 0:
            looked_at = self._events + self._keys
            raise TooLarge(
                f"{self._checked}: this would look at {self._events} events and {self._keys} keys "
                f"or more; allowed are {looked_at + self.left} together; {self._advice}"
            )


def commit_budget() -> ValidationBudget:
    """The budget for what a transaction has read, and for the ranges that it writes."""
    return ValidationBudget(
        "the check whether the transaction's reads have changed since it began",
        "begin it again, commit it sooner, or query by stream, category, types and tags",
    )


def condition_budget() -> ValidationBudget:
    """The budget for the conditions of a transaction."""
    return ValidationBudget(
        "the check of a condition", "give a later position or commit, or query by types and tags"
    )
