"""The simulation detects a few planted defects. `make mutants` plants all of them."""

import re
from pathlib import Path
from typing import Final

import pytest

from headwater_protocol import errors
from headwater_server.storage import wal
from tests.simulation.mutants import MUTANTS, hunt

FOLDER: Final = Path(__file__).parent
PLANTED: Final = {
    "nodes.py",
    "mutants.py",
    "planted.py",
    "fast_paths.py",
    "guarantees.py",
    "test_mutants.py",
}

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
    "a commit is answered before a synchronous follower has it",
    "an old leader is not fenced",
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


def test_the_words_of_each_expected_problem_are_those_of_a_checker() -> None:
    # A checker once said it in other words, and a defect that it had reported counted as missed.
    sources = [path for path in FOLDER.glob("*.py") if path.name not in PLANTED]
    sources.append(FOLDER.parent / "replication" / "world.py")
    sources += [Path(errors.__file__), Path(wal.__file__).parent / "check.py"]
    text = "\n".join(path.read_text() for path in sources)
    # A message may be continued on the next line.
    text = re.sub(r'"\n\s*f?"', "", text)
    for mutant in MUTANTS:
        missing = [words for words in mutant.says.split("|") if words not in text]
        assert not missing, mutant.name


def test_the_names_of_mutants_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
