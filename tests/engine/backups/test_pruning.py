"""Pruning keeps what the policy says, and never takes from the archive what it needs."""

import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.backups.catalog import Listed, list_backups
from headwater_server.engine.backups.pruning import Policy, Pruning, plan_pruning, prune
from headwater_server.engine.check.archive import check_archive
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.store.interface import StateStore
from headwater_server.testing.memory_files import Crash
from tests.engine.archive.archived import Archived

DAY_US = 24 * 3600 * 1_000_000
MONDAY = datetime(2026, 11, 30, 12, tzinfo=UTC)


def made(days_ago: float, commit: int = 1, problem: str | None = None) -> Listed:
    time = MONDAY - timedelta(days=days_ago)
    return Listed(
        f"d{days_ago}", "", b"", commit, 0, "", int(time.timestamp() * 1_000_000), 1, 1, problem
    )


def names(pruning: Pruning) -> list[str]:
    return [each.name for each, _ in pruning.kept]


def listed(archived: Archived) -> list[Listed]:
    def open_store(path: str) -> StateStore:
        return archived.stores[path].crash(random.Random(1))

    return list_backups(archived.files, "backups", open_store)


def looked_at(archived: Archived) -> ArchiveDirectory:
    return ArchiveDirectory.look_at(archived.files, "archive")


def test_a_policy_keeps_the_last_the_days_and_the_weeks() -> None:
    backups = [made(days) for days in (0, 0.1, 0.2, 1, 1.1, 2, 3, 8, 9, 15, 22, 30)]
    cases = (
        (Policy(last=1), [0]),
        (Policy(last=3), [0, 0.1, 0.2]),
        (Policy(daily=3), [0, 1, 2]),
        (Policy(weekly=3), [0, 1, 8]),
        (Policy(last=2, daily=2, weekly=2), [0, 0.1, 1]),
        (Policy(daily=100), [0, 1, 2, 3, 8, 9, 15, 22, 30]),
    )
    for policy, expected in cases:
        pruning = plan_pruning(backups, policy, archive=None)
        assert names(pruning) == [f"d{days}" for days in expected]
        assert len(pruning.kept) + len(pruning.removed) == len(backups)
    with pytest.raises(InvalidArgument, match="say how many"):
        plan_pruning(backups, Policy(), archive=None)


def test_the_newest_and_those_that_cannot_be_read_stay() -> None:
    backups = [made(0, problem="in use"), made(1), made(2, problem="damaged"), made(3)]
    pruning = plan_pruning(backups, Policy(weekly=1), archive=None)
    assert names(pruning) == ["d0", "d1", "d2"]
    assert plan_pruning([], Policy(last=1), archive=None) == Pruning([], [], [])


def with_backups(*, gap: bool) -> Archived:
    """An archive with backups before and after a gap, and one timeline or two."""
    archived = Archived(seed=5)
    archived.work(20, archive_every=2)
    archived.backup("a")
    archived.work(20, archive_every=2)
    if gap:
        archived.database.engine.checkpoints.readers.forget("archive")
        archived.work(150)
        archived.database.checkpoint()
        archived.archive()
    archived.backup("b")
    archived.work(20, archive_every=2)
    archived.backup("c")
    archived.work(10, archive_every=2)
    archived.archive()
    return archived


def test_backups_are_listed_with_what_they_are_also_without_a_record() -> None:
    archived = with_backups(gap=False)
    before = listed(archived)
    assert [each.name for each in before] == ["c", "b", "a"]
    assert [each.commit for each in before] == [60, 40, 20]
    # As an earlier version left them.
    for name in "abc":
        archived.files.remove(f"backups/{name}/BACKUP")
    archived.files.make_directory("backups/.d.tmp")
    archived.files.make_directory("backups/notes")
    after = listed(archived)
    assert [(each.name, each.commit, each.transaction) for each in after] == [
        (each.name, each.commit, each.transaction) for each in before
    ]
    assert all(each.problem is None for each in after)


def test_the_backup_that_a_timeline_behind_a_gap_needs_is_never_removed() -> None:
    archived = with_backups(gap=True)
    backups = listed(archived)
    assert [each.name for each in backups] == ["c", "b", "a"]
    # As if "c" were of another history.
    foreign = [
        Listed(
            each.name, each.path, each.database_id, each.commit, each.position,
            "ff" * 16 if each.name == "c" else each.transaction, each.made, 1, 1,
        )
        for each in backups
    ]  # fmt: skip
    pruning = plan_pruning(foreign, Policy(last=1), archive=looked_at(archived))
    assert names(pruning) == ["c", "b"]
    assert "timeline 2 of the archive needs it" in pruning.kept[1][1]
    # Otherwise the newest is enough.
    assert names(plan_pruning(backups, Policy(last=1), archive=looked_at(archived))) == ["c"]


@pytest.mark.parametrize("gap", [False, True])
def test_what_is_left_of_a_cut_archive_restores_every_commit_from_the_oldest_kept_backup_on(
    gap: bool,
) -> None:
    archived = with_backups(gap=gap)
    pruning = plan_pruning(
        listed(archived), Policy(last=2), archive=looked_at(archived), cut_archive=True
    )
    assert pruning.pieces
    prune(archived.files, "backups", pruning, looked_at(archived))
    assert archived.files.list("backups") == ["b", "c"]
    assert not check_archive(archived.files, "archive").findings
    oldest = next(each for each, _ in pruning.kept if each.name == "b").commit
    newest = archived.database.engine.published
    for commit in range(oldest, newest + 1, 3):
        archived.check_restored(backup="backups/b", commit=commit)
    archived.check_restored(backup="backups/c", commit=newest)
    with pytest.raises(InvalidArgument, match="it begins with commit"):
        archived.restore(commit=newest)
    # The server goes on with it.
    archived.crash()
    archived.work(5, archive_every=2)
    archived.archive()
    archived.check_restored(backup="backups/b", commit=newest + 5)


def test_a_power_loss_at_any_call_of_a_pruning_leaves_whole_backups_and_no_gap() -> None:
    archived = with_backups(gap=False)
    pruning = plan_pruning(
        listed(archived), Policy(last=1), archive=looked_at(archived), cut_archive=True
    )
    assert len(pruning.removed) == 2
    twin = archived.files.copy()
    prune(archived.files, "backups", pruning, looked_at(archived))
    calls = archived.files.calls - twin.calls
    for call in range(1, calls + 1, 3):
        files = twin.copy()
        archive = ArchiveDirectory.look_at(files, "archive")
        files.faults.crash_at = files.calls + call
        with suppress(Crash):
            prune(files, "backups", pruning, archive)
        found = files.crash()
        assert not check_archive(found, "archive").findings
        for name in found.list("backups"):
            if not name.startswith("."):
                assert {"FORMAT", "BACKUP", "state", "wal"} <= {*found.list(f"backups/{name}")}
        # The next pruning finishes what this one began.
        left = Pruning([], [each for each in pruning.removed if found.exists(each.path)], [])
        prune(found, "backups", left, None)
        assert found.list("backups") == ["c"]
