"""The part of `check` that reads the logs: write-ahead log, commit log, event log.

The code that owns a format verifies each log by itself. This module compares them: the commit log
says where each commit's events begin, each event names its commit, and the write-ahead log must
continue where the files end.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import EVENTS_MAX
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.check.clock import FutureTimes
from headwater_server.engine.check.findings import Counter, Finding, Kind, Report
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.format.index_keys import Applied
from headwater_server.engine.format.records import decode_record
from headwater_server.engine.later_files import Newest, later_logs
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.errors import reason_of
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import WalIndex, records
from headwater_server.storage.wal.offline import check_files, read_files

LOST_TRANSACTION: Final = bytes(16)
"""The transaction id of a commit record whose own id was lost."""

_CHUNK_COUNT: Final = 4096
_CHUNK_SIZE: Final = 4 * 1024 * 1024
_DAMAGED_MAX: Final = 10_000
"""Damaged events that are reported one by one."""

CUT_LOG: Final = "the log is cut there, with a copy of the rest kept; commits after it are lost"
REPLACE_EVENT: Final = (
    "the event is taken from the write-ahead log if it is still there; if not, an event of the "
    'type "$damaged" without data takes its place, and a copy of the file is kept'
)
REBUILD_COMMIT: Final = (
    "the record is rebuilt from its neighbours, its events and the transaction index; "
    "the user is lost, and the time is that of the commit before if it had no events"
)


class CheckedEvent(NamedTuple):
    """An event that was read."""

    event: StoredEvent
    is_given: bool
    """Whether a user gave it its id; False if unknown because its commit's record is gone."""
    record: CommitRecord | None = None
    """Of its commit; None if it is gone."""


SET_ASIDE: Final = (
    "what goes on is kept in copies beside the log, and cut off; or put newer wal/ and state/ back"
)


# The write-ahead log.


def check_write_ahead_log(
    file_system: FileSystem,
    directory: str,
    *,
    database_id: bytes,
    applied: Applied,
    unfinished: int,
    report: Report,
    future: FutureTimes,
) -> Newest | None:
    """Verify the chain of entries, and that commits continue where the files end.

    Returns:
        the newest commit, or None if damage hides it.
    """
    found = check_files(
        file_system, directory, database_id=database_id, known_durable=WalIndex(applied.log_index)
    )
    if found is None:
        if applied.log_index:
            what = f"there is no log, but entry {applied.log_index} was durable"
            report.add(Finding(Kind.LOG, directory, None, what, "a new log is begun"))
            return None
        return Newest(applied.commit, applied.position)
    damage = found.damage
    if damage is not None and damage.is_corruption:
        report.add(
            Finding(Kind.LOG, damage.path, damage.offset, damage.describe(), CUT_LOG, damage.index)
        )
    elif damage is not None:
        report.notes.append(
            f"{damage.path} at offset {damage.offset}: {damage.describe()}; "
            "the next start keeps a copy and cuts it"
        )
    if report.has(Kind.APPLIED):
        return None
    last = applied.commit
    position = applied.position
    for index, encoded in records(read_files(file_system, directory, database_id=database_id)):
        record = decode_record(encoded)
        if record.commit == 0:
            future.add(record.time)
            continue
        if record.commit <= last:
            continue
        future.add_commit(record.commit, record.time)
        if record.commit != last + 1 or record.first_position != position + 1:
            what = (
                f"entry {index} has commit {record.commit} from position {record.first_position} "
                f"on; the files and the entries before end with commit {last} and position "
                f"{position}"
            )
            remedy = "the log is cut before it, with a copy of the rest kept"
            report.add(Finding(Kind.LOG_GAP, directory, None, what, remedy, index))
            return None
        last = record.commit
        position += len(record.events)
        report.logged_commits += 1
        report.logged_events += len(record.events)
    if unfinished > last:
        what = f"the state store holds commits up to {unfinished}, the log only up to {last}"
        remedy = "later commits are removed from the state store"
        report.add(Finding(Kind.LOG_GAP, directory, None, what, remedy))
    return None if report.has(Kind.LOG, Kind.LOG_GAP) else Newest(last, position)


def check_moments(
    event_log: EventLog, commit_log: CommitLog, newest: Newest, report: Report
) -> None:
    """Check that no log goes on beyond the newest commit: it would be of a later moment."""
    for later in later_logs(event_log, commit_log, newest):
        is_events = later.directory == event_log.directory
        kind = Kind.LATER_EVENTS if is_events else Kind.LATER_COMMITS
        what = f"{later.what}; the state store and the write-ahead log are of an earlier moment"
        report.add(Finding(kind, later.directory, None, what, SET_ASIDE, later.number))


def first_logged_commit(file_system: FileSystem, directory: str, database_id: bytes) -> int:
    """The oldest commit in the write-ahead log, 0 if there is none."""
    for _, encoded in records(read_files(file_system, directory, database_id=database_id)):
        commit = decode_record(encoded).commit
        if commit:
            return commit
    return 0


# The commit log.


def commit_records(log: CommitLog) -> Iterator[CommitRecord | DamagedFile]:
    """Every record in order, or its error."""
    commit = int(log.first_commit)
    while commit <= log.last_commit:
        try:
            found = log.read_range(CommitNumber(commit), _CHUNK_COUNT)
            yield from found
            commit += len(found)
        except DamagedFile:
            # Some record of the chunk is damaged, so read them one by one.
            for single in range(commit, min(commit + _CHUNK_COUNT, log.last_commit + 1)):
                try:
                    yield log.read(CommitNumber(single))
                except DamagedFile as error:
                    yield error
            commit += _CHUNK_COUNT


def check_commit_log(
    log: CommitLog, applied: Applied, report: Report, counter: Counter, future: FutureTimes
) -> None:
    """Check that records are sound, times never decrease, and positions follow each other."""
    commit = int(log.first_commit)
    time = 0
    position: int | None = None if commit > 1 else 1
    for record in commit_records(log):
        if isinstance(record, DamagedFile):
            where, offset = str(record.details["file"]), record.details.get("offset")
            what = f"commit {commit}: {reason_of(record)}"
            report.add(Finding(Kind.COMMIT, where, offset, what, REBUILD_COMMIT, commit))
            position = None
        else:
            wrong = []
            if record.time < time:
                wrong.append(f"its time {record.time} is before that of the commit before, {time}")
            if position is not None and record.first_position != position:
                wrong.append(f"first position is {record.first_position} instead of {position}")
            if wrong:
                what = f"commit {commit}: {'; '.join(wrong)}"
                place = f"commits/ (commit {commit})"
                report.add(Finding(Kind.COMMIT, place, None, what, REBUILD_COMMIT, commit))
            time = max(time, record.time)
            future.add_commit(commit, record.time)
            position = record.first_position + record.event_count
        commit += 1
        counter.add(1)
    report.commits = commit - int(log.first_commit)
    if position is not None and position != applied.position + 1 and report.commits:
        what = f"the last commit ends with position {position - 1}, not {applied.position}"
        place = f"commits/ (commit {commit - 1})"
        report.add(Finding(Kind.COMMIT, place, None, what, REBUILD_COMMIT, commit - 1))


# The event log.


def stored_events(log: EventLog) -> Iterator[tuple[int, bytes | DamagedFile]]:
    """Every position with its stored event or its error."""
    position = int(log.first_position)
    while position <= log.last_position:
        try:
            chunk = log.read(Position(position), _CHUNK_COUNT, _CHUNK_SIZE)
        except DamagedFile as error:
            yield position, error
            position += 1
            continue
        yield from enumerate(chunk, position)
        position += len(chunk)


class Runs:
    """A set of numbers that are added in order, stored as runs."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, number: int) -> None:
        """Add a number that is not below the earlier ones; duplicates are ignored."""
        if self._ends and number <= self._ends[-1]:
            return
        if self._ends and number == self._ends[-1] + 1:
            self._ends[-1] = number
        else:
            self._starts.append(number)
            self._ends.append(number)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number <= self._ends[place]


class EventReader:
    """Reads all events together with the commit log.

    Attributes:
        damaged: positions of events that cannot be read.
        removed: positions of events that retention has removed.
    """

    def __init__(
        self,
        event_log: EventLog,
        commit_log: CommitLog,
        report: Report,
        future: FutureTimes | None = None,
    ) -> None:
        self.damaged: set[int] = set()
        self.removed = Runs()
        self._event_log = event_log
        self._commit_log = commit_log
        self._report = report
        self._future = future if future is not None else FutureTimes(None)

    def read(self, counter: Counter, *, quiet: bool = False) -> Iterator[CheckedEvent]:
        """Every readable event. Problems are reported unless *quiet*."""
        commits = (
            each for each in commit_records(self._commit_log) if isinstance(each, CommitRecord)
        )
        current = next(commits, None)
        for position, stored in stored_events(self._event_log):
            counter.add(1)
            if isinstance(stored, DamagedFile):
                self.damaged.add(position)
                if not quiet:
                    self._tell(position, stored)
                if len(self.damaged) > _DAMAGED_MAX:
                    return
                continue
            if not stored:
                self.removed.add(position)
                continue
            try:
                event = decode_event(stored)
            except (ValueError, TypeError):
                self.damaged.add(position)
                if not quiet:
                    self._wrong(position, "it is not a stored event")
                continue
            while current is not None and current.first_position + current.event_count <= position:
                current = next(commits, None)
            known = current if current and current.first_position <= position else None
            if not quiet:
                self._check(position, event, known)
            yield CheckedEvent(event, known is not None and is_given(event, known), known)

    def _check(self, position: int, event: StoredEvent, commit: CommitRecord | None) -> None:
        if event.position != position:
            self._wrong(position, f"it says that it is at position {event.position}")
        if commit is None or (event.commit, event.time) == (commit.commit, commit.time):
            return
        if event.commit == commit.commit and event.time > commit.time:
            # A repair changes times in the commit log first; see redating.py. The event is sound.
            self._future.add_later_event(position)
        else:
            self._wrong(
                position,
                f"it is of commit {event.commit} and time {event.time}; the commit log has "
                f"commit {commit.commit} and time {commit.time} there",
            )

    def _wrong(self, position: int, what: str) -> None:
        place = "events/"
        what = f"position {position}: {what}"
        self._report.add(Finding(Kind.EVENT, place, None, what, REPLACE_EVENT, position))

    def _tell(self, position: int, error: DamagedFile) -> None:
        where, offset = str(error.details.get("file", "events/")), error.details.get("offset")
        what = f"position {position}: {reason_of(error)}"
        self._report.add(Finding(Kind.EVENT, where, offset, what, REPLACE_EVENT, position))


def is_given(event: StoredEvent, commit: CommitRecord) -> bool:
    """Whether a user gave the event its id, so that it is certainly not derived.

    A derived id is the transaction's id plus the event's place among all events of the transaction.
    Events that were stored before count too, so the sum may be larger than the position suggests.
    """
    if commit.transaction == LOST_TRANSACTION or event.id[:12] != commit.transaction[:12]:
        return commit.transaction != LOST_TRANSACTION
    low, base = int.from_bytes(event.id[12:], "big"), int.from_bytes(commit.transaction[12:], "big")
    place = event.position - commit.first_position
    return not place <= (low - base) % 2**32 < EVENTS_MAX


def check_offsets(log: EventLog, report: Report) -> None:
    """Check the .idx files, which can be rebuilt from the events."""
    for error in log.find_damage():
        if str(error.details.get("file", "")).endswith(".idx"):
            where = str(error.details["file"])
            remedy = "the file is rebuilt; nothing is lost"
            report.add(Finding(Kind.OFFSETS, where, None, reason_of(error), remedy))
