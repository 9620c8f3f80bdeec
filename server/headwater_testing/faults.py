"""Which fault happens to which request, drawn from a seed.

The draw for a request depends on the seed, its operation and how many requests of that operation
came before, not on time or on threads. So the same seed gives the same faults to a program that
makes the same requests.

    conflict       a commit is refused, as if another transaction had won
    lost request   the connection breaks before the server has the request
    lost answer    the connection breaks after the server has processed the request
    slow           the answer takes longer than usual
    restart        the server loses power and starts again: the request never arrived
    outage         the request is processed, its answer is lost, and the server is away for longer
                   than the client waits, so a commit's outcome is unknown to the program
    clock          the server's clock jumps, forward or back
"""

import random
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["conflict", "lost request", "lost answer", "slow", "restart", "outage", "clock"]

FAULTS_MAX: Final = 12
"""Faults in one test. Without a bound, a program that rightly tries again might never end."""

IN_A_ROW_MAX: Final = 3
"""Faults of one operation in a row, so that a bounded number of attempts can succeed."""

SLOW_MS_MAX: Final = 30
OUTAGE_S: Final = 0.6
"""Seconds. Longer than RETRY_TIMEOUT_S, which clients of a faulty database have."""

RETRY_TIMEOUT_S: Final = 0.3
"""Seconds for which the fixtures' clients retry: short, so that an outage outlasts them."""

CLOCK_JUMP_S_MAX: Final = 120

WRITING: Final = frozenset({"commit", "execute", "ack", "nack"})
"""Operations that change something: most faults of production that matter hit these."""

NEVER: Final = frozenset({"hello", "authenticate", "rollback", "credit"})
"""Operations without faults: a connection that is never opened tests nothing of the program."""

PROBABILITY_WRITING: Final = 0.35
PROBABILITY_OTHER: Final = 0.06

_WEIGHTS_WRITING: Final[dict[Kind, int]] = {
    "conflict": 6,
    "lost answer": 4,
    "lost request": 3,
    "outage": 2,
    "slow": 2,
    "restart": 1,
    "clock": 1,
}
_WEIGHTS_OTHER: Final[dict[Kind, int]] = {
    "lost answer": 3,
    "lost request": 3,
    "slow": 3,
    "restart": 1,
    "clock": 1,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happened.

    Attributes:
        operation: the operation of the protocol that it hit.
        ordinal: which request of this operation, counted from 1.
        kind: what happened.
        amount: milliseconds of "slow", seconds of "clock".
    """

    operation: str
    ordinal: int
    kind: Kind
    amount: float = 0.0

    def __str__(self) -> str:
        unit = {"slow": " ms", "clock": " s"}.get(self.kind)
        how = f" ({self.amount:+.0f}{unit})" if unit else ""
        return f"{self.operation} {self.ordinal}: {self.kind}{how}"


@dataclass(slots=True)
class FaultPlan:
    """Draws the faults of one test.

    Attributes:
        seed: the same one gives the same faults.
        kinds: the faults that may happen; all if empty.
        happened: the faults so far, in order.
        active: set it to False for a part of a test that shall have no faults.
    """

    seed: int
    kinds: frozenset[Kind] = frozenset()
    happened: list[Fault] = field(default_factory=list)
    active: bool = True
    _counts: dict[str, int] = field(default_factory=dict)
    _in_a_row: dict[str, int] = field(default_factory=dict)

    def draw(self, operation: str, *, may_conflict: bool) -> Fault | None:
        """The fault of the next request of an operation, if any.

        Args:
            operation: its name.
            may_conflict: whether another transaction could have made this request fail.
        """
        if operation in NEVER:
            return None
        ordinal = self._counts[operation] = self._counts.get(operation, 0) + 1
        dice = random.Random(f"{self.seed} {operation} {ordinal}")
        fault = self._drawn(dice, operation, ordinal)
        if fault is not None and fault.kind == "conflict" and not may_conflict:
            fault = None
        if (
            fault is None
            or not self.active
            or len(self.happened) >= FAULTS_MAX
            or self._in_a_row.get(operation, 0) >= IN_A_ROW_MAX
            or (self.kinds and fault.kind not in self.kinds)
        ):
            self._in_a_row[operation] = 0
            return None
        self._in_a_row[operation] = self._in_a_row.get(operation, 0) + 1
        self.happened.append(fault)
        return fault

    def _drawn(self, dice: random.Random, operation: str, ordinal: int) -> Fault | None:
        probability, weights = PROBABILITY_OTHER, _WEIGHTS_OTHER
        if operation in WRITING:
            probability, weights = PROBABILITY_WRITING, _WEIGHTS_WRITING
        if dice.random() >= probability:
            return None
        kind = dice.choices(list(weights), list(weights.values()))[0]
        amount = 0.0
        if kind == "slow":
            amount = dice.uniform(1, SLOW_MS_MAX)
        elif kind == "clock":
            amount = dice.uniform(-CLOCK_JUMP_S_MAX, CLOCK_JUMP_S_MAX)
        return Fault(operation, ordinal, kind, amount)

    def schedule(self) -> str:
        """The faults that happened, one on each line."""
        return "\n".join(map(str, self.happened)) or "no fault happened"
