"""A few planted defects are caught: the simulation can fail. `make mutants` plants all of them."""

import pytest

from tests.simulation.mutants import MUTANTS, hunt

pytestmark = pytest.mark.source

QUICK = (
    "ranges are not validated",
    "validation forgets commits that are pending",
    "commits are acknowledged before the sync",
    "checkpoints are not flushed",
    "a subscription begins one position too far",
    "a snapshot passes for that of one event more",
    "reads of all events show what is hidden",
    "a rewrite leaves what was erased, and unmasks it",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_a_planted_defect_is_caught(name: str) -> None:
    (mutant,) = [each for each in MUTANTS if each.name == name]
    assert hunt(mutant) is not None, f"{name}: nothing noticed"


def test_every_defect_still_has_a_place_to_be_planted() -> None:
    # A name that was changed in the server left a defect that could not be planted any more.
    gone = [each.name for each in MUTANTS if not hasattr(each.owner, each.attribute)]
    assert not gone


def test_names_of_mutants_are_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
