"""A few strangers and insiders; `make fuzz` sends 200,000 frames of each."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.intruders import Guarded, insider, run, stranger

Who = Callable[[Guarded, Random, Counter[str]], int]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("who", [stranger, insider])
def test_intruders_are_told_and_change_nothing_that_they_have_no_right_to(
    who: Who, tmp_path: Path
) -> None:
    print("python -m tests.fuzz.intruders --seed 1 --count 1")
    target = Guarded(tmp_path)
    outcomes: Counter[str] = Counter()
    assert run(target, who, 1, 40, outcomes) > 200
    target.stop()
    assert outcomes["permission_denied" if who is insider else "authentication_failed"] > 0
    assert outcomes["served"] > 0


def test_the_oracle_notices_an_insider_who_is_told_a_secret(tmp_path: Path) -> None:
    target = Guarded(tmp_path, grants=("read:streams", "admin"))
    with pytest.raises(AssertionError, match="told a secret"):
        run(target, insider, 1, 40, Counter())
    target.server.stop()
