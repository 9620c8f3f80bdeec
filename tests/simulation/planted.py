"""The description of a planted defect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.simulation.plan import Kind

ISOLATION: Final = "not serializable|G-single|G2|not a prefix|in all accounts|of a pair|is not what"
LOSS: Final = (
    "lost|DamagedFile|changed what is there|that does not exist|is not what commit|at no commit|"
    "G1a|not a prefix|garbage|was told|is in the commit log|twice"
)
WRONG_READ: Final = "is not what commit|at no commit|in all accounts"
FEED: Final = "subscribed after|caught up"
CONSUMED: Final = "consumed an event out of order|were not consumed"
PROJECTED: Final = "the projection passed over|the projection handled|the projection stands still"
VISIBLE: Final = (
    "is not what commit|at no commit|not serializable|on condition of|had hidden|at the end"
)
"""Regular expressions for the problems that a kind of bug causes."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted defect.

    Attributes:
        name: describes the bug.
        owner, attribute: the function that is replaced.
        wrong: takes the right function and returns the wrong one.
        says: a regular expression that some problem must match.
        kind: the kind of worlds; "nodes": those of several nodes.
    """

    name: str
    owner: Any
    attribute: str
    wrong: Callable[[Any], Any]
    says: str
    kind: Kind | Literal["nodes"]


def nothing(_: Any) -> Any:
    """A replacement that does nothing."""
    return lambda *_arguments, **_named: None


def constant(value: Any) -> Callable[[Any], Any]:
    """A replacement that always returns the same value."""
    return lambda _: lambda *_arguments, **_named: value
