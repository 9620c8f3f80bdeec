"""Files of different moments: an event log or commit log that goes on beyond the newest commit.

Nothing is in these logs that was not durable in the write-ahead log first. So if one of them goes
on beyond the last commit of state store and write-ahead log, those two are older: they were put
back from a copy, or lost. The next checkpoint would then cut off what only the newer files have.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format.records import decode_record
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog, records_by_entry


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest commit, and the position of the newest event."""

    commit: int
    position: int


@dataclass(frozen=True, slots=True)
class Later:
    """A log that goes on beyond the newest commit: where, and up to what."""

    directory: str
    what: str
    number: int


def later_logs(event_log: EventLog, commit_log: CommitLog, newest: Newest) -> list[Later]:
    """The logs that go on beyond the newest commit."""
    found: list[Later] = []
    commit = commit_log.newest_stored()
    if commit > newest.commit:
        what = f"goes on to commit {commit}, beyond the newest commit, {newest.commit}"
        found.append(Later(commit_log.directory, f"the commit log {what}", newest.commit))
    position = event_log.newest_stored()
    if position > newest.position:
        what = f"goes on to position {position}, beyond the newest event, {newest.position}"
        found.append(Later(event_log.directory, f"the event log {what}", newest.position))
    return found


def refuse_later_logs(
    event_log: EventLog, commit_log: CommitLog, applied: Newest, log: WriteAheadLog
) -> None:
    """Refuse to open a directory whose logs go on beyond its newest commit.

    This is asked before anything is replayed, because a replay may make checkpoints, and a
    checkpoint cuts the logs.

    Raises:
        DamagedFile: one does.
    """
    if not later_logs(event_log, commit_log, applied):
        # So it is at every start, unless a crash interrupted a checkpoint.
        return
    entries = records_by_entry(log.read(WalIndex(log.first_index - 1)))
    newest = newest_logged(applied, (encoded for _, encoded in entries))
    for later in later_logs(event_log, commit_log, newest):
        raise DamagedFile(
            f"{later.directory}: {later.what}. The files are of different moments: wal/ and state/ "
            "are older, or parts of them were lost. Put the newer ones back, or see what "
            "headwater repair would discard",
            details={"file": later.directory},
        )


def newest_logged(applied: Newest, entries: Iterable[Sequence[bytes]]) -> Newest:
    """The newest commit of the write-ahead log, or the applied one if that is newer."""
    commit, position = applied.commit, applied.position
    for encoded in entries:
        for record in map(decode_record, encoded):
            if record.commit > commit:
                commit = record.commit
                position = record.first_position + len(record.events) - 1
    return Newest(commit, position)
