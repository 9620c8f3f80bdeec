"""A few strangers and insiders; `make fuzz` sends 200,000 frames of each."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.intruders import Guarded, Intruder, insider, run, stranger

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


def test_the_oracle_notices_an_insider_who_is_told_or_changes_what_it_may_not(
    tmp_path: Path,
) -> None:
    target = Guarded(tmp_path, grants=("read:streams", "admin"))
    with target.connect() as db:
        db.rights.grant("user 1", "read:stream:secret-1", "manage:stream:secret-1")
        db.rights.grant("user 2", "read:keys")
    read = [9, "read_stream", None, "secret-1"]
    one, other = (Intruder(target.server.url, Counter()) for _ in range(2))
    with one.socket, other.socket:
        one.log_in("user 1")
        other.log_in("user 2")
        assert other.ask(read)[2][0] == "permission_denied"
        with pytest.raises(AssertionError, match="told a secret"):
            one.ask(read)
        target.secrets_stay()
        transaction = bytes(range(16))
        assert (
            one.ask([10, "execute", transaction, [], [], [["delete_stream", "secret-1"]]])[1] == 0
        )
    with pytest.raises(ValueError, match="unpack"):
        target.secrets_stay()
    target.server.stop()
