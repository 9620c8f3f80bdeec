"""The bound on the work of validating one commit.

Validation runs without interruption, so all other clients wait for it. Most checks are a single
look-up. Some are not: ranges, queries without an index, and queries over streams from which a
retention rule removes events. Those count here what they look at.
"""

from typing import Final

from headwater_protocol.errors import TooLarge

LOOKED_AT_MAX: Final = 400_000
"""Events, keys and index entries that the checks of one commit may look at in total. Reading that
many events from the files took 2 s, uncompiled on a busy machine, and blocks all other clients."""


class ValidationBudget:
    """Counts what the checks of one commit look at.

    *checked* and *advice* are parts of the error message: what is checked, and what to do.
    """

    __slots__ = ("_advice", "_checked", "_events", "_keys", "left")

    def __init__(self, checked: str, advice: str, *, looked_at_max: int | None = None) -> None:
        self._checked = checked
        self._advice = advice
        self._events = 0
        self._keys = 0
        self.left = LOOKED_AT_MAX if looked_at_max is None else looked_at_max

    def spend(self, *, events: int = 0, keys: int = 0) -> None:
        """Count events, their index entries, or keys. Call this for each batch.

        Raises:
            TooLarge: the budget is used up.
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
