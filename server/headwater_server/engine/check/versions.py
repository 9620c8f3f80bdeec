"""The part of `check` that verifies versions of keys, snapshots and transaction ids.

LATEST k -> 9                CHANGES 9 k       every version above the horizon has its change,
HISTORY k until 9 -> 7       CHANGES 7 k       and every older one is listed by one change, or
HISTORY k until 7 -> 4       "r" view 5 7 k    by an entry for the view that keeps it ("r")
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeVar

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.check.findings import Counter, Finding, Kind, Report
from headwater_server.engine.check.logs import LOST_TRANSACTION, commit_records
from headwater_server.engine.check.sums import Sums
from headwater_server.engine.format.index_keys import (
    ABORTED,
    CHANGE_EXISTS,
    CHANGE_REPLACED,
    ID_BUCKET_ENTRY_SIZE,
    META_COLLECTED,
    META_FORGOTTEN,
    NUMBER,
    RETAINED,
    STREAM,
    Change,
    aborted_key,
    changes_key,
    id_bucket_key,
    latest_commit,
    parse_aborted_key,
    parse_changes,
    parse_collected,
    parse_history_key,
    parse_number,
    parse_retained_key,
    parse_transactions,
)
from headwater_server.engine.format.keyspaces import SNAPSHOTS, SNAPSHOTS_END, parse_snapshot_key
from headwater_server.engine.state import postings
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.store.interface import Family

GIVE_UP_HISTORY: Final = (
    "older versions of all keys are lost: commits before the last checkpoint can no longer "
    "be read; newest values stay"
)
REBUILD: Final = "the index of transaction ids is rebuilt from the commit log"
DROP_SNAPSHOT: Final = "the snapshot is removed; the events are the truth"

_CHUNK: Final = 1024

_LATEST_SIZE_MIN: Final = 9
"""Bytes of a LATEST entry without a value: the commit and the flags."""

_T = TypeVar("_T")


class VersionCheck:
    """Checks LATEST, HISTORY and CHANGES. *last_commit* is the newest that the files may have."""

    def __init__(self, state: StoredState, last_commit: int, report: Report) -> None:
        self._state = state
        self._store = state.store
        self._last_commit = last_commit
        self._report = report
        self._applied = state.applied_commit
        self._older = Sums()
        self._recent = Sums()

    def check(self, counter: Counter) -> None:
        """Check every key and every older version."""
        self._check_latest(counter)
        self._check_history(counter)
        self._check_changes(counter)
        for bucket in sorted(self._older.differing)[:3]:
            self._tell_unled(bucket)
        for bucket in sorted(self._recent.differing)[:3]:
            self._tell_untold(bucket)
        self._check_snapshots(counter)

    def _check_latest(self, counter: Counter) -> None:
        for chunk in _chunks(self._store.scan(Family.LATEST, b"")):
            recent: list[tuple[bytes, int]] = []
            for key, entry in chunk:
                if len(entry) < _LATEST_SIZE_MIN or entry[8] > 1:
                    self._wrong(f"key {key!r}: its entry is not a version")
                    continue
                commit = latest_commit(entry)
                if not 0 < commit <= self._last_commit:
                    self._wrong(
                        f"key {key!r} is of commit {commit}; the last is {self._last_commit}"
                    )
                elif self._is_recent(commit):
                    recent.append((key, commit))
            for key, commit in recent:
                self._recent.add_left(key, (key, commit))
            counter.add(len(chunk))
            self._report.keys += len(chunk)

    def _check_history(self, counter: Counter) -> None:
        for chunk in _chunks(self._store.scan(Family.HISTORY, b"")):
            versions = [parse_history_key(entry_key) for entry_key, _ in chunk]
            newest = self._store.get_many(Family.LATEST, [key for key, _ in versions])
            for (key, until), (_, older), entry in zip(versions, chunk, newest, strict=True):
                if len(older) < _LATEST_SIZE_MIN or latest_commit(older) >= until:
                    self._wrong(f"key {key!r}: what commit {until} replaced is not a version")
                    continue
                if entry is None or latest_commit(entry) < until:
                    self._wrong(f"key {key!r}: the version until {until} has no newer version")
                if until <= self._applied:
                    self._older.add_left(key, (key, until))
                if self._is_recent(latest_commit(older)):
                    self._recent.add_left(key, (key, latest_commit(older)))
            counter.add(len(chunk))

    def _is_recent(self, commit: int) -> bool:
        # An unfinished checkpoint has not written its changes yet.
        return self._state.horizon < commit <= self._applied

    def _check_changes(self, counter: Counter) -> None:
        for chunk in _chunks(self._changes()):
            for commit, flags, key in chunk:
                if flags & CHANGE_REPLACED:
                    self._older.add_right(key, (key, commit))
                if self._is_recent(commit):
                    self._recent.add_right(key, (key, commit))
            counter.add(len(chunk))
        for key, until in self._kept_by_views():
            self._older.add_right(key, (key, until))

    def _changes(self) -> Iterator[Change]:
        """The changes that garbage collection has not examined, up to the applied commit."""
        # A crash can leave entries before the cursor.
        start, done = parse_collected(self._store.get(Family.INDEX, META_COLLECTED))
        before = 0
        for entry_key, entry in self._store.scan(Family.CHANGES, changes_key(start)):
            try:
                changes = parse_changes(entry)
                in_order = [before, *[commit for commit, _, _ in changes]]
                is_whole = (
                    in_order == sorted(in_order)
                    and entry_key[:8] == NUMBER.pack(in_order[-1])
                    and all(flags <= CHANGE_EXISTS | CHANGE_REPLACED for _, flags, _ in changes)
                )
            except (ValueError, TypeError, struct.error):
                is_whole = False
            if not is_whole:
                self._wrong(f"the changes at {entry_key.hex()} are not in order, or not changes")
                continue
            before = in_order[-1]
            for change in changes:
                if change[0] == start and done:
                    done -= 1
                elif start <= change[0] <= self._applied:
                    yield change

    def _kept_by_views(self) -> Iterator[tuple[bytes, int]]:
        for entry_key, _ in self._store.scan(Family.INDEX, RETAINED, _end_of(RETAINED)):
            _, until, key = parse_retained_key(entry_key)
            yield key, until

    def _tell_unled(self, bucket: int) -> None:
        """Report older versions of a bucket that no change lists, and listed ones that are gone."""
        there = {
            version
            for entry_key, _ in self._store.scan(Family.HISTORY, b"")
            if Sums.bucket((version := parse_history_key(entry_key))[0]) == bucket
            and version[1] <= self._applied
        }
        led_to = {
            (key, commit)
            for commit, flags, key in self._changes()
            if flags & CHANGE_REPLACED and Sums.bucket(key) == bucket
        }
        led_to.update(pair for pair in self._kept_by_views() if Sums.bucket(pair[0]) == bucket)
        for key, until in sorted(there ^ led_to)[:10]:
            if (key, until) in there:
                self._wrong(f"key {key!r}: no change lists its version until {until}")
            else:
                self._wrong(f"key {key!r}: its version until {until} is missing")

    def _tell_untold(self, bucket: int) -> None:
        """Report the versions of a bucket that CHANGES does not list."""
        written = set()
        for key, entry in self._store.scan(Family.LATEST, b""):
            if Sums.bucket(key) == bucket and len(entry) >= _LATEST_SIZE_MIN:
                written.add((key, latest_commit(entry)))
        for entry_key, entry in self._store.scan(Family.HISTORY, b""):
            key, _ = parse_history_key(entry_key)
            if Sums.bucket(key) == bucket and len(entry) >= _LATEST_SIZE_MIN:
                written.add((key, latest_commit(entry)))
        written.difference_update((key, commit) for commit, _, key in self._changes())
        # A change without its version is harmless: it is of a mask that was removed.
        for key, commit in sorted(written)[:10]:
            if self._is_recent(commit):
                self._wrong(f"key {key!r}: commit {commit} wrote it, but is not in CHANGES")

    def _check_snapshots(self, counter: Counter) -> None:
        stream, version = "", 0
        for key, entry in self._store.scan(Family.LATEST, SNAPSHOTS, SNAPSHOTS_END):
            counter.add(1)
            if len(entry) < _LATEST_SIZE_MIN or not entry[8]:
                continue
            if latest_commit(entry) > self._applied:
                # An unfinished checkpoint wrote it, and has not written the stream's index yet.
                continue
            try:
                snapshot = parse_snapshot_key(key)
            except (ValueError, ArithmeticError):
                self._wrong_snapshot(f"key {key!r} is not a snapshot's key")
                continue
            if snapshot.stream != stream:
                head = postings.read_head(self._store, STREAM, snapshot.stream)
                stream, version = snapshot.stream, head.version if head else 0
            if snapshot.version > version:
                self._wrong_snapshot(
                    f"stream {stream!r} has {version} events, but a snapshot at version "
                    f"{snapshot.version}"
                )

    def _wrong(self, what: str) -> None:
        self._report.add(Finding(Kind.VERSIONS, "state/", None, what, GIVE_UP_HISTORY))

    def _wrong_snapshot(self, what: str) -> None:
        self._report.add(Finding(Kind.SNAPSHOT, "state/", None, what, DROP_SNAPSHOT))


class TransactionCheck:
    """Checks that the index of transaction ids agrees with the commit log."""

    def __init__(self, state: StoredState, report: Report) -> None:
        self._state = state
        self._store = state.store
        self._report = report
        self._forgotten = parse_number(state.store.get(Family.INDEX, META_FORGOTTEN))

    def check(self, counter: Counter) -> None:
        """Check every transaction id."""
        sums = Sums()
        fenced = Sums()
        for record in commit_records(self._state.commit_log):
            if isinstance(record, DamagedFile) or record.transaction == LOST_TRANSACTION:
                continue
            if record.commit > self._forgotten:
                sums.add_left(record.transaction, (record.transaction, record.commit))
        for entry_key, entry in self._store.scan(Family.TRANSACTIONS, b""):
            counter.add(1)
            for transaction, commit in self._ids(entry_key, entry):
                if commit == 0:
                    fenced.add_left(transaction, entry[8:])
                elif commit <= self._state.applied_commit:
                    sums.add_right(transaction, (transaction, commit))
        for entry_key, _ in self._store.scan(Family.INDEX, ABORTED, _end_of(ABORTED)):
            time, transaction = parse_aborted_key(entry_key)
            fenced.add_right(transaction, aborted_key(time, b"")[1:])
        if fenced.differing:
            self._wrong("the lists of fenced transactions by time and by id differ")
        if differing := sums.differing:
            self._report_differing(differing)

    def _report_differing(self, differing: set[int]) -> None:
        known: dict[bytes, int] = {}
        for entry_key, entry in self._store.scan(Family.TRANSACTIONS, b""):
            for transaction, commit in self._ids(entry_key, entry):
                if (
                    Sums.bucket(transaction) in differing
                    and 0 < commit <= self._state.applied_commit
                ):
                    known[transaction] = commit
        for record in commit_records(self._state.commit_log):
            if isinstance(record, DamagedFile) or record.commit <= self._forgotten:
                continue
            if Sums.bucket(record.transaction) not in differing:
                continue
            commit = known.pop(record.transaction, 0)
            if commit != record.commit and record.transaction != LOST_TRANSACTION:
                self._wrong(
                    f"transaction {record.transaction.hex()} is commit {record.commit} by the "
                    f"commit log, {commit or 'unknown'} by the index"
                )
        for transaction, commit in known.items():
            if not self._is_damaged(commit):
                self._wrong(
                    f"transaction {transaction.hex()} is commit {commit} by the index, and not "
                    "by the commit log"
                )

    def _ids(self, entry_key: bytes, entry: bytes) -> list[tuple[bytes, int]]:
        """The ids of an entry with their commits; none if it is not a valid entry."""
        is_whole = len(entry) in (8, 16)
        if len(entry_key) != 16:
            is_whole = len(entry) > 0 and len(entry) % ID_BUCKET_ENTRY_SIZE == 0
        if is_whole:
            ids = parse_transactions(entry_key, entry)
            if len(entry_key) == 16 or {id_bucket_key(each) for each, _ in ids} == {entry_key}:
                return ids
        self._wrong(f"the entry at {entry_key.hex()} does not hold transaction ids")
        return []

    def _is_damaged(self, commit: int) -> bool:
        return any(
            finding.kind is Kind.COMMIT and finding.number == commit
            for finding in self._report.findings
        )

    def _wrong(self, what: str) -> None:
        self._report.add(Finding(Kind.TRANSACTIONS, "state/", None, what, REBUILD))


def _chunks(items: Iterator[_T]) -> Iterator[list[_T]]:
    while chunk := list(islice(items, _CHUNK)):
        yield chunk


def _end_of(kind: bytes) -> bytes:
    return bytes([kind[0] + 1])
