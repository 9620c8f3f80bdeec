"""What a planted defect is: where it goes, what it makes wrong, and what must be noticed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.plan import Kind

ISOLATION: Final = "not serializable|G-single|G2|no prefix|in all accounts|of a pair|is not what"
LOSS: Final = (
    "lost|DamagedFile|changed what is there|that never was|is not what commit|at no commit|G1a|"
    "no prefix|garbage|was told|is in the commit log|twice"
)
WRONG_READ: Final = "is not what commit|at no commit|in all accounts"
FEED: Final = "subscribed after|caught up"
CONSUMED: Final = "out of its turn|were consumed"
VISIBLE: Final = (
    "is not what commit|at no commit|not serializable|on condition of|had hidden|at the end"
)
"""Words of problems, by what went wrong."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted defect.

    Attributes:
        name: what is wrong.
        owner, attribute: what is replaced.
        wrong: makes what takes its place, of what was there.
        says: a regular expression; some problem must fit it.
        kind: of the worlds.
    """

    name: str
    owner: Any
    attribute: str
    wrong: Callable[[Any], Any]
    says: str
    kind: Kind


def nothing(_: Any) -> Any:
    """In place of a function: one that does nothing."""
    return lambda *_arguments, **_named: None


def constant(value: Any) -> Callable[[Any], Any]:
    """In place of a function: one that always returns the same."""
    return lambda _: lambda *_arguments, **_named: value
