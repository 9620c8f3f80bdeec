"""What a database object has seen, as a term and a commit."""

import random

import pytest

from headwater.nodes.seen import Seen


@pytest.mark.parametrize("seed", range(50))
def test_what_was_seen_never_goes_back_unless_a_new_leader_lacks_it(seed: int) -> None:
    source = random.Random(seed)
    seen = Seen()
    for _ in range(100):
        before = seen.term, seen.commit
        term, commit = source.randrange(4), source.randrange(100)
        if source.random() < 0.8:
            seen.note(commit, source.choice([None, term]))
            assert seen.commit == max(before[1], commit)
            assert seen.term >= before[0]
        else:
            lost = seen.lead(term, commit)
            if term > before[0] and commit < before[1]:
                assert (lost, seen.term, seen.commit) == (before[1], term, commit)
            else:
                assert lost is None
                assert seen.commit == before[1]
                assert seen.term == max(before[0], term)


def test_an_answer_of_an_earlier_term_is_older_whatever_its_commit() -> None:
    seen = Seen()
    seen.note(5, 2)
    assert seen.is_older(1)
    assert not seen.is_older(2)
