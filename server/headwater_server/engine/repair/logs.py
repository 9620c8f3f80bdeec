"""The part of `repair` that restores the commit log and the event log.

Neither may have a gap, because commits and positions are dense. So unreadable records are rebuilt
from the other files, and what no file knows is marked as lost. A file is never changed in place:
the new file is written beside it and takes its name, and the old one is kept.
"""

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from headwater_server.engine.check.logs import LOST_TRANSACTION
from headwater_server.engine.format.events import (
    StoredEvent,
    decode_event,
)
from headwater_server.engine.format.index_keys import (
    Applied,
    parse_transactions,
)
from headwater_server.engine.format.records import decode_record
from headwater_server.engine.repair.stand_ins import StandIns
from headwater_server.engine.state.stored_state import oldest_needed
from headwater_server.storage.commits import commit_log_repair
from headwater_server.storage.commits.commit_log import RECORDS_DEFAULT
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.events import event_log_repair
from headwater_server.storage.events.event_segment import EventSegment
from headwater_server.storage.files.copying import FilePart, link_or_copy, size_of
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import Family, StateStore
from headwater_server.storage.wal.interface import records
from headwater_server.storage.wal.offline import read_files

_TEMPORARY = ".tmp"


@dataclass(slots=True)
class Rebuilt:
    """What a repair of the logs did.

    Attributes:
        commits: how many records were rebuilt.
        without_id: how many of these have lost their transaction id.
        restored: events that the write-ahead log still had.
        replaced: positions of events whose content is lost.
        copies: old files that were kept.
    """

    commits: int = 0
    without_id: int = 0
    restored: int = 0
    replaced: list[int] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)


class LogRepair:
    """Repairs the logs of a directory that this process owns."""

    def __init__(
        self,
        file_system: FileSystem,
        directory: DataDirectory,
        store: StateStore,
        applied: Applied,
    ) -> None:
        self._file_system = file_system
        self._directory = directory
        self._store = store
        self._applied = applied
        self.rebuilt = Rebuilt()

    # Files.

    def _ranges(self, files: list[tuple[int, str]], last: int) -> list[tuple[int, int, str | None]]:
        """First, last and path of each segment up to *last*; None if the file is missing."""
        wanted = [(first, path) for first, path in files if first <= last]
        ranges: list[tuple[int, int, str | None]] = []
        for place, (first, path) in enumerate(wanted):
            end = wanted[place + 1][0] - 1 if place + 1 < len(wanted) else last
            ranges.append((first, end, path))
        return ranges

    def _replace(self, path: str, write: Callable[[str], None]) -> None:
        """Replace the file at *path* durably, and keep the old one beside it.

        The old file gets its second name first. So there is always a file at *path*, and an
        interrupted repair loses nothing that was sound.
        """
        files = self._file_system
        parent = path.rpartition("/")[0]
        temporary = path + _TEMPORARY
        if files.exists(temporary):
            files.remove(temporary)
        write(temporary)
        if files.exists(path):
            self._keep_copy(path)
        files.rename(temporary, path)
        files.sync_directory(parent)

    def _keep_copy(self, path: str) -> None:
        """Give the file at *path* a second name, durably."""
        files = self._file_system
        number = 1
        while files.exists(f"{path}.damaged-{number}"):
            number += 1
        copy = f"{path}.damaged-{number}"
        link_or_copy(files, FilePart(path, size_of(files, path), True), copy)
        files.sync_directory(path.rpartition("/")[0])
        self.rebuilt.copies.append(copy)

    # What is of a later moment.

    def set_later_aside(self, last: int, *, is_events: bool) -> str:
        """Cut a log after its record *last*, and keep copies of the files that go on.

        Returns:
            what was done.
        """
        repair = event_log_repair if is_events else commit_log_repair
        directory = self._directory.events if is_events else self._directory.commits
        copies = len(self.rebuilt.copies)
        # The newest first, so that an interrupted repair leaves no gap.
        for first, path in reversed(repair.segment_files(self._file_system, directory)):
            offsets = EventSegment.offsets_path_of(path)
            if first > last:
                self._keep_copy(path)
                self._file_system.remove(path)
            elif is_events:
                self._cut_events(first, path, last)
            else:
                self._cut_commits(first, path, last)
            if is_events and self._file_system.exists(offsets):
                # Opening the log rebuilds it.
                self._file_system.remove(offsets)
            self._file_system.sync_directory(directory)
            if first <= last:
                break
        name = "event log" if is_events else "commit log"
        return f"cut the {name} after {last}; copies kept: {len(self.rebuilt.copies) - copies}"

    def _cut_events(self, first: int, path: str, last: int) -> None:
        def write(temporary: str) -> None:
            event_log_repair.write_segment(
                self._file_system,
                temporary,
                first,
                (stored for _, stored in self._sound_in(first, last, path)),
                database_id=self._directory.database_id,
            )

        self._replace(path, write)

    def _cut_commits(self, first: int, path: str, last: int) -> None:
        file = self._file_system.open(path, writable=False)
        try:
            capacity = commit_log_repair.read_capacity(file)
            records = list(commit_log_repair.sound_records(file, first))
        finally:
            file.close()

        def write(temporary: str) -> None:
            commit_log_repair.write_segment(
                self._file_system,
                temporary,
                first,
                capacity,
                (record for record in records if record.commit <= last),
                database_id=self._directory.database_id,
            )

        self._replace(path, write)

    # Commits.

    def repair_commits(self, rejected: set[int]) -> None:
        """Repair every segment of the commit log.

        *rejected* are commits whose record is wrong although its checksum is right.
        """
        directory = self._directory.commits
        files = commit_log_repair.segment_files(self._file_system, directory)
        last = self._applied.commit
        if not last:
            return
        if not files or files[0][0] > last:
            files = [(max(1, last - RECORDS_DEFAULT + 1), "")]
        oldest = oldest_needed(self._store)
        if oldest < files[0][0]:
            files.insert(0, (oldest, ""))
        for first, end, path in self._ranges(files, last):
            self._repair_commit_segment(first, end, path or "", rejected)

    def _repair_commit_segment(self, first: int, end: int, path: str, rejected: set[int]) -> None:
        files = self._file_system
        known: dict[int, CommitRecord] = {}
        capacity = 0
        if path and files.exists(path):
            file = files.open(path, writable=False)
            try:
                capacity = commit_log_repair.read_capacity(file)
                for record in commit_log_repair.sound_records(file, first):
                    if record.commit <= end and record.commit not in rejected:
                        known[record.commit] = record
            finally:
                file.close()
        lost = [commit for commit in range(first, end + 1) if commit not in known]
        if not lost and capacity:
            return
        path = path or commit_log_repair.segment_path(self._directory.commits, first)
        # A segment that is not the last has exactly the commits before the next one.
        is_last = end == self._applied.commit
        capacity = capacity or (RECORDS_DEFAULT if is_last else end - first + 1)
        known.update(self._rebuild_records(lost, known))
        self._replace(
            path,
            lambda temporary: commit_log_repair.write_segment(
                files,
                temporary,
                first,
                capacity,
                (known[commit] for commit in range(first, end + 1)),
                database_id=self._directory.database_id,
            ),
        )

    def _rebuild_records(
        self, lost: list[int], known: dict[int, CommitRecord]
    ) -> dict[int, CommitRecord]:
        wanted = set(lost)
        transactions: dict[int, bytes] = {}
        for entry_key, entry in self._store.scan(Family.TRANSACTIONS, b""):
            for transaction, commit in parse_transactions(entry_key, entry):
                if commit in wanted:
                    transactions[commit] = transaction
        events: dict[int, list[StoredEvent]] = {}
        # The first event of each commit, to find the position of commits without events.
        firsts: list[tuple[int, int]] = []
        for event in self._sound_events():
            if not firsts or firsts[-1][0] < event.commit:
                firsts.append((event.commit, event.position))
            if event.commit in wanted:
                events.setdefault(event.commit, []).append(event)
        found: dict[int, CommitRecord] = {}
        for commit in lost:
            own = events.get(commit)
            before = found.get(commit - 1) or known.get(commit - 1)
            if before is not None:
                position = before.first_position + before.event_count
            elif own:
                position = own[0].position
            else:
                place = bisect.bisect_left(firsts, (commit, 0))
                position = firsts[place][1] if place < len(firsts) else self._applied.position + 1
            after = known.get(commit + 1)
            if after is not None:
                count = after.first_position - position
            elif commit == self._applied.commit:
                count = self._applied.position + 1 - position
            else:
                count = own[-1].position + 1 - position if own else 0
            time = own[0].time if own else before.time if before else after.time if after else 0
            transaction = transactions.get(commit, LOST_TRANSACTION)
            found[commit] = CommitRecord(commit, transaction, time, 0, position, max(count, 0))
            self.rebuilt.commits += 1
            self.rebuilt.without_id += transaction == LOST_TRANSACTION
        return found

    # Events.

    def _event_ranges(self) -> list[tuple[int, int, str | None]]:
        files = event_log_repair.segment_files(self._file_system, self._directory.events)
        last = self._applied.position
        ranges = self._ranges(files, last)
        if last and (not ranges or ranges[0][0] > 1):
            ranges.insert(0, (1, ranges[0][0] - 1 if ranges else last, None))
        return ranges

    def _sound_events(self) -> Iterator[StoredEvent]:
        for first, end, path in self._event_ranges():
            for _, stored in self._sound_in(first, end, path):
                if stored:
                    yield decode_event(stored)

    def _sound_in(self, first: int, end: int, path: str | None) -> Iterator[tuple[int, bytes]]:
        if path is None:
            return
        file = self._file_system.open(path, writable=False)
        try:
            yield from event_log_repair.sound_events(file, first, end)
        finally:
            file.close()

    def repair_events(
        self, rejected: set[int], commit_of: Callable[[int], CommitRecord | None]
    ) -> None:
        """Repair every segment of the event log.

        *rejected* are positions whose event is wrong although its checksum is right. *commit_of*
        returns the record of the commit that a position belongs to.
        """
        broken: list[tuple[int, int, str | None]] = []
        lost: list[int] = []
        for first, end, path in self._event_ranges():
            sound = {
                position
                for position, _ in self._sound_in(first, end, path)
                if position not in rejected
            }
            missing = [position for position in range(first, end + 1) if position not in sound]
            if missing or not self._has_sound_header(first, path):
                broken.append((first, end, path))
                lost += missing
        if not broken:
            return
        stand_ins = StandIns(self._store, lost, commit_of)
        self._look_in_the_log(stand_ins)
        stand_ins.find_places(self._sound_events)
        for first, end, path in broken:
            self._rewrite_events(first, end, path, rejected, stand_ins)

    def _has_sound_header(self, first: int, path: str | None) -> bool:
        if path is None:
            return False
        file = self._file_system.open(path, writable=False)
        try:
            return event_log_repair.has_sound_header(file, path, first, self._directory.database_id)
        finally:
            file.close()

    def _look_in_the_log(self, stand_ins: StandIns) -> None:
        entries = read_files(
            self._file_system, self._directory.wal, database_id=self._directory.database_id
        )
        for _, encoded in records(entries):
            record = decode_record(encoded)
            for position, stored in enumerate(record.events, record.first_position):
                if stand_ins.restore(position, stored):
                    self.rebuilt.restored += 1

    def _rewrite_events(
        self,
        first: int,
        end: int,
        path: str | None,
        rejected: set[int],
        stand_ins: StandIns,
    ) -> None:
        def payloads() -> Iterator[bytes]:
            sound = self._sound_in(first, end, path)
            ahead = next(sound, None)
            previous: bytes | None = None
            for position in range(first, end + 1):
                while ahead is not None and ahead[0] < position:
                    ahead = next(sound, None)
                if ahead is not None and ahead[0] == position and position not in rejected:
                    previous = ahead[1]
                else:
                    previous, is_lost = stand_ins.event(position, previous)
                    if is_lost:
                        self.rebuilt.replaced.append(position)
                yield previous

        whole = path or event_log_repair.segment_path(self._directory.events, first)
        self._replace(
            whole,
            lambda temporary: event_log_repair.write_segment(
                self._file_system,
                temporary,
                first,
                payloads(),
                database_id=self._directory.database_id,
            ),
        )
        offsets = EventSegment.offsets_path_of(whole)
        if self._file_system.exists(offsets):
            # Opening the log rebuilds it.
            self._file_system.remove(offsets)
            self._file_system.sync_directory(self._directory.events)

    def remove_offsets(self, paths: set[str]) -> None:
        """Remove .idx files; opening the log rebuilds them."""
        for path in sorted(paths):
            if self._file_system.exists(path):
                self._file_system.remove(path)
        if paths:
            self._file_system.sync_directory(self._directory.events)
