"""The archive has a prefix of the log at every moment, whatever fails."""

import errno
import itertools
from contextlib import suppress

import pytest

from headwater_protocol.errors import DamagedFile, DirectoryInUse, InvalidArgument
from headwater_server.storage.archive.directory import ArchiveDirectory, ArchiveLost
from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_files import Call, Crash
from tests.engine.archive.archived import PARTS_MAX, PIECE_SIZE, Archived
from tests.engine.database import Database


def names(archived: Archived, timeline: int = 1) -> list[str]:
    return archived.files.list(f"archive/timeline-{timeline:04d}")


def entries(archived: Archived, timeline: int = 1) -> int:
    """How many entries a timeline has; its pieces must follow each other."""
    pieces = ArchiveDirectory.look_at(archived.files, "archive").pieces(timeline)
    assert pieces[0].first == 1
    for before, after in itertools.pairwise(pieces):
        assert after.first == before.last + 1
    return pieces[-1].last


def test_every_call_archives_what_is_durable_in_the_log() -> None:
    archived = Archived()
    for _ in range(20):
        archived.work(1)
        archived.archive()
        assert entries(archived) == archived.database.engine.archived.log.last_index
        assert archived.archiver.commit == archived.database.engine.published
    before = names(archived)
    archived.archive()
    assert names(archived) == before, "nothing new, no piece"


def test_small_parts_are_merged_by_size_and_by_number() -> None:
    archived = Archived()
    for _ in range(40):
        archived.work(1)
        archived.archive()
        found = names(archived)
        parts = [name for name in found if name.endswith(".part")]
        assert len(parts) < PARTS_MAX
    wholes = [name for name in found if name.endswith(".log")]
    assert len(wholes) >= 40 // PARTS_MAX
    archived.check_restored(commit=40)


def test_much_at_once_is_cut_into_whole_pieces() -> None:
    archived = Archived()
    archived.work(60)
    archived.archive()
    sizes = [
        len(archived.files.open(f"archive/timeline-0001/{name}").read_at(0, 10**6))
        for name in names(archived)
    ]
    assert len(sizes) > 3
    assert all(PIECE_SIZE <= size < 3 * PIECE_SIZE for size in sizes[:-1])


def test_a_transaction_larger_than_an_entry_is_never_cut_by_a_piece() -> None:
    archived = Archived()
    archived.work(3)
    writes = [["put", b"large%d" % number, b"x" * 20_000] for number in range(12)]
    archived.database.execute(*writes)
    archived.note()
    archived.work(3)
    archived.archive()
    for commit in (3, 4, 5):
        archived.check_restored(commit=commit)


def test_after_a_restart_the_same_timeline_goes_on() -> None:
    archived = Archived()
    for _ in range(5):
        archived.work(6, archive_every=4)
        archived.crash()
    archived.archive()
    assert [begun.timeline for begun in archived.begun] == [1]
    assert archived.check_restored().commit == 30


def test_the_log_is_not_trimmed_before_it_is_archived() -> None:
    archived = Archived()
    archived.work(30)
    archived.archive()
    # Checkpoints make the log redundant, but the archive does not have it yet.
    for _ in range(4):
        archived.work(60)
        archived.database.checkpoint()
    log = archived.database.engine.archived.log
    assert log.first_index <= archived.archiver.archived + 1
    archived.archive()
    archived.database.engine.trim_log()
    assert log.first_index > 1
    archived.check_restored(commit=200)


@pytest.mark.parametrize("seed", range(3))
def test_after_a_power_loss_at_any_call_the_archive_goes_on_without_a_gap(seed: int) -> None:
    print(f"seed {seed}")
    archived = Archived(seed=seed)
    archived.work(20, archive_every=4)
    archived.work(12)
    twin = archived.files.copy()
    before = archived.files.calls
    archived.archive()
    archived.archive()
    calls = archived.files.calls - before
    assert calls > 20
    crashed = 0
    for call in range(1, calls + 1):
        files = twin.copy()
        again = Archived(
            seed=seed,
            database=Database(
                archived.database.settings,
                files=files,
                store=archived.database.store.crash(),
                now=archived.database.now,
            ),
            pictures=archived.pictures,
            times=archived.times,
        )
        files.faults.crash_at = files.calls + call
        with suppress(Crash):
            again.archive()
            again.archive()
        crashed += files.crashed
        again.crash()
        # What was archived before the power loss can be restored after it.
        kept = again.check_restored()
        assert kept.commit >= 16
        again.archive()
        assert [begun.timeline for begun in again.begun] == []
        assert entries(again) == again.database.engine.archived.log.last_index
        if call % 5 == 0:
            assert again.check_restored().commit == 32
    assert crashed > calls // 2


@pytest.mark.parametrize("seed", range(2))
def test_an_archive_that_fails_at_any_call_is_caught_up_with(seed: int) -> None:
    archived = Archived(seed=seed)
    archived.work(10, archive_every=3)
    failed = 0
    for call in range(1, 40):
        archived.work(1)
        archived.files.faults.error_at = archived.files.calls + call
        try:
            archived.archive()
        except OSError:
            failed += 1
        archived.files.faults.error_at = None
        archived.archive()
        assert entries(archived) == archived.database.engine.archived.log.last_index
    assert failed > 10
    assert archived.check_restored().commit == 49


def test_a_full_archive_does_not_hold_up_the_database_and_is_caught_up_with() -> None:
    archived = Archived()
    archived.work(5, archive_every=1)

    def full(call: Call) -> None:
        if call.operation == "write" and call.path.startswith("archive"):
            raise DiskFull(call.path, call.size)

    archived.files.faults.before = full
    for _ in range(5):
        archived.work(3)
        with pytest.raises(DiskFull):
            archived.archive()
    archived.files.faults.before = None
    archived.archive()
    assert archived.check_restored().commit == 20


def test_an_archive_that_is_away_is_caught_up_with() -> None:
    archived = Archived()
    archived.work(5, archive_every=1)

    def away(call: Call) -> None:
        if call.path.startswith("archive"):
            raise OSError(errno.ENOENT, "no such file", call.path)

    archived.files.faults.before = away
    archived.work(10)
    with pytest.raises(OSError, match="no such file"):
        archived.archive()
    archived.files.faults.before = None
    archived.archive()
    assert archived.check_restored().commit == 15
    missing = archived.new_archiver()
    missing.path = "nowhere"
    with pytest.raises(FileNotFoundError):
        missing.archive()
    assert "nowhere" not in archived.files.list(""), "a missing mount is not filled"


def test_after_a_gap_a_new_timeline_begins_and_needs_a_backup() -> None:
    archived = Archived()
    archived.work(30, archive_every=5)
    # Nothing keeps the log for the archive any more.
    archived.database.engine.checkpoints.readers.forget("archive")
    archived.work(200)
    archived.database.checkpoint()
    archived.archive()
    assert [(begun.timeline, begun.needs_backup) for begun in archived.begun] == [
        (1, False),
        (2, True),
    ]
    made = archived.backup("after")
    archived.work(20, archive_every=3)
    archived.check_restored(commit=29, timeline=1)
    for commit in range(made, 251, 7):
        archived.check_restored(backup="backups/after", commit=commit)
    with pytest.raises(InvalidArgument, match="it begins with commit"):
        archived.restore(commit=240)


def test_a_restored_database_goes_on_in_a_timeline_of_its_own() -> None:
    archived = Archived()
    archived.work(40, archive_every=3)
    archived.archive()
    restored, store = archived.restore(commit=25, target="second")
    assert restored.timeline == 1
    second = Archived(
        seed=99,
        database=Database(
            archived.database.settings,
            files=archived.files,
            store=store,
            now=archived.database.now,
            path="second",
        ),
        pictures={c: p for c, p in archived.pictures.items() if c <= 25},
    )
    archived.archiver.close()
    second.work(20, archive_every=3)
    second.archive()
    assert [(begun.timeline, begun.needs_backup) for begun in second.begun] == [(2, False)]
    # Timeline 2 is the newest: commits after 25 are those of the restored database.
    for commit in (10, 25, 26, 33, 45):
        assert second.check_restored(commit=commit).timeline == 2
    # The first history is still there.
    for commit in (10, 25, 26, 40):
        archived.check_restored(commit=commit, timeline=1)


def test_a_second_server_on_the_same_archive_is_refused() -> None:
    archived = Archived()
    archived.work(5)
    archived.archive()
    second = archived.new_archiver()
    with pytest.raises(DirectoryInUse):
        second.connect()


def test_without_locks_the_server_that_began_last_goes_on_and_the_other_stops() -> None:
    archived = Archived()
    archived.work(5)
    archived.archive()
    # As on a network file system that does not know locks of other machines.
    place = archived.archiver._place
    assert place is not None
    place.directory.close()
    second = archived.new_archiver()
    second.connect()
    archived.work(5)
    for _ in range(3):
        with pytest.raises(ArchiveLost, match="another server"):
            archived.archiver.archive()
    second.archive()
    assert archived.check_restored().commit == 10


def test_the_archive_of_another_database_is_refused_and_not_changed() -> None:
    archived = Archived()
    archived.work(5)
    archived.archive()
    archived.archiver.close()
    before = archived.files.list("archive"), names(archived)
    other = archived.new_archiver()
    other._database_id = bytes(16)
    with pytest.raises(InvalidArgument, match="give each database an archive of its own"):
        other.archive()
    assert (archived.files.list("archive"), names(archived)) == before
    archived.files.make_directory("photos")
    archived.files.create("photos/cat.jpg").close()
    other.path = "photos"
    with pytest.raises(InvalidArgument, match="not an archive and not empty"):
        other.archive()


def test_a_damaged_log_is_not_archived() -> None:
    archived = Archived()
    archived.work(5)
    archived.archive()
    archived.work(5)
    path = sorted(f"data/wal/{name}" for name in archived.files.list("data/wal"))[0]
    log = archived.files.open(path)
    content = log.read_at(0, log.size())
    at = len(content.rstrip(b"\0")) - 100
    log.write_at(at, bytes([content[at] ^ 1]))
    with pytest.raises(DamagedFile):
        archived.archive()
    assert archived.check_restored().commit >= 5
