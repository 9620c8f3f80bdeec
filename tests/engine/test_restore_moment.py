"""Any commit and any time can be restored, from the archive alone and from a backup with it."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import DamagedFile, FormatTooNew, HeadwaterError, InvalidArgument
from headwater_server.engine.backup import write_backup
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.restore_moment import Moment, restore_moment
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import Crash
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.archive.archived import NOW, Archived, picture
from tests.engine.database import Database, open_test_log


def newest_at(archived: Archived, time: int) -> int:
    return max((commit for commit, at in archived.times.items() if at <= time), default=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_archive_alone_restores_every_commit(seed: int) -> None:
    print(f"seed {seed}")
    archived = Archived(seed=seed)
    archived.work(60, archive_every=7)
    archived.archive()
    for commit in range(0, 61, 3):
        archived.check_restored(commit=commit)
    assert archived.check_restored().commit == 60


@pytest.mark.parametrize("seed", range(3))
def test_a_backup_and_the_archive_restore_twenty_random_commits_and_times(seed: int) -> None:
    print(f"seed {seed}")
    archived = Archived(seed=seed)
    archived.work(30, archive_every=4)
    made = archived.backup("monday")
    archived.work(60, archive_every=4)
    archived.archive()
    draw = random.Random(seed)
    for commit in draw.sample(range(made, 91), 20):
        archived.check_restored(backup="backups/monday", commit=commit)
    first, last = archived.times[made], archived.times[90]
    for _ in range(20):
        time = draw.randrange(first, last + 1)
        archived.check_restored(
            backup="backups/monday", time=time, expected=newest_at(archived, time)
        )


def test_a_moment_that_the_archive_does_not_have_is_refused_and_nothing_is_left() -> None:
    archived = Archived()
    archived.work(20, archive_every=3)
    first = archived.times[1]
    early = archived.backup("early")
    archived.work(10, archive_every=3)
    late = archived.backup("late")
    archived.work(3)
    archived.archive()
    cases = (
        ({"commit": 34}, "it ends with commit 33"),
        ({"backup": "backups/early", "commit": early - 1}, "take an earlier backup"),
        ({"backup": "backups/late", "time": archived.times[5]}, "take an earlier backup"),
        ({"timeline": 2}, "has no timeline 2; it has 1"),
    )
    for arguments, why in cases:
        with pytest.raises(InvalidArgument, match=why):
            archived.restore(**arguments)
        assert "new" not in archived.files.list("")
    # A time before the first commit is the empty database, and a later one is the newest.
    assert archived.check_restored(time=first - 1).commit == 0
    assert archived.check_restored(time=first + 10**15).commit == 33
    assert archived.check_restored(backup="backups/late", commit=late).commit == late


def test_a_backup_of_another_history_with_the_same_commit_numbers_is_refused() -> None:
    archived = Archived()
    archived.work(20, archive_every=3)
    archived.archive()
    _, store = archived.restore(commit=10, target="second")
    other = Archived(
        seed=50,
        database=Database(
            archived.database.settings,
            files=archived.files,
            store=store,
            now=archived.database.now,
            path="second",
        ),
    )
    other.work(5)
    run_to_end(checkpoint_steps(other.database.engine))
    staged = other.database.engine.stage_backup()
    write_backup(staged, "backups", "other", begin_log=begin_files)
    taken = store.checkpoints["second/backup.tmp/state"]
    archived.stores["backups/other/state"] = taken.crash(random.Random(1))
    with pytest.raises(InvalidArgument, match="its commit 15 is not that of"):
        archived.restore(backup="backups/other", commit=18)


def test_a_backup_from_before_the_archive_began_is_refused_unless_it_is_its_beginning() -> None:
    archived = Archived()
    # There is no archive at first, so nothing keeps the log.
    archived.database.engine.checkpoints.readers.forget("archive")
    archived.work(20)
    archived.backup("old")
    archived.work(80)
    archived.database.checkpoint()
    made = archived.backup("beginning")
    assert archived.database.engine.archived.log.first_index > 1
    archived.archiver = archived.new_archiver()
    archived.work(20, archive_every=3)
    archived.archive()
    with pytest.raises(InvalidArgument, match="those between are missing"):
        archived.restore(backup="backups/old")
    with pytest.raises(InvalidArgument, match="give a backup of commit"):
        archived.restore(commit=110)
    for commit in (made, made + 1, 120):
        archived.check_restored(backup="backups/beginning", commit=commit)


def test_a_restored_database_survives_a_power_loss_and_a_failed_restore_leaves_nothing() -> None:
    archived = Archived()
    archived.work(30, archive_every=4)
    twin = archived.files.copy()
    archived.restore(commit=20)
    calls = archived.files.calls - twin.calls
    complete = 0
    for call in (*range(1, calls, 9), calls):
        files = twin.copy()
        files.faults.crash_at = files.calls + call
        store = MemoryStore()
        with suppress(Crash):
            restore_moment(
                files,
                "new",
                archive="archive",
                backup=None,
                moment=Moment(commit=20),
                opening=archived.opening(store),
            )
        found = files.crash()
        if "new" not in found.list("") or "FORMAT" not in found.list("new"):
            # No server starts on an incomplete one as if it were a database.
            continue
        complete += 1

        def crashed(path: str, store: MemoryStore = store) -> MemoryStore:
            return store.crash()

        engine = open_engine(
            found,
            "new",
            open_store=crashed,
            open_log=open_test_log,
            settings=archived.database.settings,
            clock=lambda: NOW,
            source=random.Random(1),
        )
        assert picture(engine) == archived.pictures[20]
    assert calls > 50
    assert complete
    for call in range(1, calls + 1, 9):
        files = twin.copy()
        files.faults.error_at = files.calls + call
        with suppress(OSError, DamagedFile):
            restore_moment(
                files,
                "new",
                archive="archive",
                backup=None,
                moment=Moment(commit=20),
                opening=archived.opening(MemoryStore()),
            )
            continue
        assert "new" not in files.list("")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_archive_with_any_damaged_or_missing_piece_is_refused_or_not_needed(
    data: st.DataObject,
) -> None:
    archived = Archived()
    archived.work(40, archive_every=3)
    directory = "archive/timeline-0001"
    names = archived.files.list(directory)
    name = data.draw(st.sampled_from(names[:-1]))
    path = f"{directory}/{name}"
    if data.draw(st.booleans()):
        archived.files.remove(path)
    else:
        file = archived.files.open(path)
        at = data.draw(st.integers(0, file.size() - 1))
        file.write_at(at, bytes([file.read_at(at, 1)[0] ^ (1 << data.draw(st.integers(0, 7)))]))
    commit = data.draw(st.integers(1, 39))
    refused: HeadwaterError | None = None
    try:
        archived.check_restored(commit=commit)
    except HeadwaterError as error:
        refused = error
    if isinstance(refused, InvalidArgument):
        # Without its first piece, the archive begins later.
        assert name == names[0]
        assert "it begins with commit" in refused.message
    elif refused is not None:
        assert isinstance(refused, DamagedFile | FormatTooNew)
        assert directory in refused.message
