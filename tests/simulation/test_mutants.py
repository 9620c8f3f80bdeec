"""The simulation detects a few planted defects. `make mutants` plants all of them."""

import pytest

from tests.simulation.mutants import MUTANTS, hunt

pytestmark = pytest.mark.source

QUICK = (
    "ranges are not validated",
    "validation ignores pending commits",
    "commits are acknowledged before fsync",
    "checkpoints are not flushed",
    "a subscription begins one position too far",
    "a snapshot is returned with a version too high",
    "reads of all events show hidden events",
    "a rewrite keeps erased data and unmasks it",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_a_planted_defect_is_detected(name: str) -> None:
    (mutant,) = [each for each in MUTANTS if each.name == name]
    assert hunt(mutant) is not None, f"{name}: nothing noticed"


def test_every_planted_defect_replaces_an_existing_function() -> None:
    # A renamed function of the server once left a defect that could not be planted any more.
    gone = [each.name for each in MUTANTS if not hasattr(each.owner, each.attribute)]
    assert not gone


def test_the_names_of_mutants_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
