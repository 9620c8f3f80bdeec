"""The keys changed since a commit: compared with a list of all writes, and the cost."""

import random

import pytest

from headwater_protocol.errors import TooLarge
from headwater_server.engine import work_budget
from headwater_server.engine.format.keyspaces import USER, USER_END
from headwater_server.engine.transactions.changed_keys import FEW, ChangedKeys
from headwater_server.engine.work_budget import Phase, WorkBudget
from tests.engine.database import Database


def budget(work_max: int | None = None) -> WorkBudget:
    return WorkBudget(Phase("a test", "wait"), work_max=work_max)


def used(spent: WorkBudget) -> int:
    return work_budget.WORK_MAX - spent.left


def key(number: int) -> bytes:
    return b"%06d" % number


@pytest.mark.parametrize("seed", range(12))
def test_ranges_in_any_order_agree_with_a_list_of_all_writes(seed: int) -> None:
    source = random.Random(seed)
    print("seed", seed)
    database = Database(seed=seed)
    written: list[tuple[int, bytes]] = []
    for _ in range(source.randrange(20, 60)):
        # Sometimes many neighbouring keys, so that a range has more keys than one step examines.
        first, count = source.randrange(1000), source.choice([1, 2, 5, 3 * FEW])
        kind = source.choice(["put", "put", "delete"])
        keys = [key(number) for number in range(first, first + count)]
        database.execute(*[[kind, each, b"v"][: 3 if kind == "put" else 2] for each in keys])
        written += [(database.engine.published, each) for each in keys]
        if source.randrange(10) == 0:
            database.checkpoint()
        if source.randrange(20) == 0 and not database.engine.checkpoints.running:
            assert database.engine.begin_checkpoint() is not None
    state = database.engine._state
    for after in source.sample(range(state.last_commit + 1), 8):
        changed = ChangedKeys(state, after, budget())
        for _ in range(40):
            low = source.randrange(1200)
            high = low + source.choice([1, 3, 10, 300, 1200])
            since = {
                each: commit
                for commit, each in written
                if commit > after and key(low) <= each < key(high)
            }
            found = changed.in_range(USER + key(low), USER + key(high))
            if found is None:
                assert not since, (after, low, high)
            else:
                assert since[found[0][1:]] >= found[1] > after


@pytest.mark.parametrize("layer", ["memtable", "files"])
def test_a_range_costs_at_most_twice_the_cheaper_of_its_keys_and_the_changes(layer: str) -> None:
    for key_count, change_count in ((2000, 50), (50, 2000)):
        database = Database()
        database.execute(*[["put", key(number), b"v"] for number in range(key_count)])
        if layer == "files":
            database.checkpoint()
        view = database.engine.published
        others = [["put", b"x%06d" % number, b"v"] for number in range(change_count)]
        database.execute(*others)
        if layer == "files":
            database.checkpoint()
        spent = budget()
        changed = ChangedKeys(database.engine._state, view, spent)
        assert changed.in_range(USER + key(0), USER + key(key_count)) is None
        assert used(spent) <= 2 * min(key_count, change_count) + 2 * FEW


@pytest.mark.parametrize("layer", ["memtable", "files"])
def test_many_ranges_read_the_changes_once(layer: str) -> None:
    database = Database()
    database.execute(*[["put", key(number), b"v"] for number in range(5000)])
    if layer == "files":
        database.checkpoint()
    view = database.engine.published
    database.execute(*[["put", b"x%06d" % number, b"v"] for number in range(500)])
    if layer == "files":
        database.checkpoint()
    spent = budget()
    changed = ChangedKeys(database.engine._state, view, spent)
    for number in range(0, 4000, 10):
        # Each range has 1,000 keys.
        assert changed.in_range(USER + key(number), USER + key(number + 1000)) is None
    if layer == "memtable":
        # Each looks at the first keys of its range before it turns to the changes.
        assert used(spent) <= 400 * FEW + 501
    else:
        assert used(spent) <= 2 * 500 + 4 * FEW


def test_a_few_small_ranges_do_not_read_many_changes() -> None:
    database = Database()
    database.execute(*[["put", key(number), b"v"] for number in range(1000)])
    view = database.engine.published
    database.execute(*[["put", b"x%06d" % number, b"v"] for number in range(5000)])
    database.checkpoint()
    spent = budget()
    changed = ChangedKeys(database.engine._state, view, spent)
    for number in range(0, 500, 10):
        assert changed.in_range(USER + key(number), USER + key(number + 10)) is None
    assert used(spent) <= 2 * 50 * 10 + 2 * FEW


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_commit_that_would_examine_too_many_keys_is_refused_and_changes_nothing(
    isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_budget, "WORK_MAX", 1_000)
    database = Database()
    database.execute(*[["put", key(number), b"v"] for number in range(2_000)])
    running = database.begin(isolation=isolation)
    running.scan(b"", b"a", 10_000, False)
    running.write([["delete_range", b"", b"a"]])
    database.execute(*[["put", b"x%06d" % number, b"v"] for number in range(2_000)])
    database.checkpoint()
    before = database.engine.published
    with pytest.raises(TooLarge, match=r"look at \d+ keys or more; allowed are 1000"):
        database.commit(running)
    assert database.engine.published == before


def test_the_condition_unchanged_has_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "WORK_MAX", 1_000)
    database = Database()
    database.execute(*[["put", key(number), b"v"] for number in range(2_000)])
    commit = database.engine.published
    database.execute(*[["put", b"x%06d" % number, b"v"] for number in range(2_000)])
    database.checkpoint()
    with pytest.raises(TooLarge, match="give a later position or commit"):
        database.execute(["put", b"k", b"v"], conditions=[["unchanged", b"", b"a", commit]])
    later = database.engine.published
    database.execute(["put", b"k", b"v"], conditions=[["unchanged", b"", b"a", later]])
    assert ChangedKeys(database.engine._state, later, budget()).in_range(USER, USER_END)
