"""The part of `check` that looks at versions of keys, snapshots and transaction ids.

LATEST k -> 9        CHANGES 9 k -> 7       HISTORY k 7       every older version is the work
HISTORY k 7          CHANGES 7 k -> 4       HISTORY k 4       of one entry of CHANGES, or of
HISTORY k 4          "r" view 5 7 k -> 4                      one that a view kept ("r")
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeVar

from headwater_protocol.errors import DamagedFile
from headwater_server.engine import postings
from headwater_server.engine.checkpointed import CheckpointedState
from headwater_server.engine.index_keys import (
    ABORTED,
    META_COLLECTED,
    META_FORGOTTEN,
    RETAINED,
    STREAM,
    aborted_key,
    change_key,
    latest_commit,
    parse_aborted_key,
    parse_change_key,
    parse_change_value,
    parse_history_key,
    parse_number,
    parse_retained_key,
)
from headwater_server.engine.keyspaces import SNAPSHOTS, SNAPSHOTS_END, parse_snapshot_key
from headwater_server.engine.offline.check_logs import LOST_TRANSACTION, commit_records
from headwater_server.engine.offline.check_sums import Sums
from headwater_server.engine.offline.findings import Counter, Finding, Kind, Report
from headwater_server.storage.state_store import Family

GIVE_UP_HISTORY: Final = (
    "older versions of all keys are given up: commits before the last checkpoint can no longer "
    "be read; newest values stay"
)
REBUILD: Final = "the index of transaction ids is made again from the commit log"
DROP_SNAPSHOT: Final = "the snapshot is removed; the events are the truth"

_CHUNK: Final = 1024

_LATEST_SIZE_MIN: Final = 9
"""Bytes of a LATEST entry without a value: its commit and whether the key exists."""

_T = TypeVar("_T")


class VersionCheck:
    """Checks LATEST, HISTORY, CHANGES and TRANSACTIONS. *last_commit*: the newest that may be."""

    def __init__(self, state: CheckpointedState, last_commit: int, report: Report) -> None:
        self._state = state
        self._store = state.store
        self._last_commit = last_commit
        self._report = report
        self._older = Sums()

    def check(self, counter: Counter) -> None:
        """Look at every key and every older version."""
        self._check_latest(counter)
        self._check_history(counter)
        self._check_changes(counter)
        for bucket in sorted(self._older.suspects)[:3]:
            self._tell_suspects(bucket)
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
                elif commit > self._state.horizon:
                    recent.append((key, commit))
            changes = [change_key(commit, key) for key, commit in recent]
            found = self._store.get_many(Family.CHANGES, changes) if changes else []
            for (key, commit), change in zip(recent, found, strict=True):
                if change is None:
                    self._wrong(f"key {key!r}: commit {commit} wrote it, but is not in CHANGES")
            counter.add(len(chunk))
            self._report.keys += len(chunk)

    def _check_history(self, counter: Counter) -> None:
        for chunk in _chunks(self._store.scan(Family.HISTORY, b"")):
            versions = [parse_history_key(entry_key) for entry_key, _ in chunk]
            newest = self._store.get_many(Family.LATEST, [key for key, _ in versions])
            for (key, commit), entry in zip(versions, newest, strict=True):
                if entry is None or latest_commit(entry) <= commit:
                    self._wrong(f"key {key!r}: version {commit} is older than none")
                self._older.add_left(key, (key, commit))
            counter.add(len(chunk))

    def _check_changes(self, counter: Counter) -> None:
        # A crash can leave entries behind the cursor; they have been looked at.
        start = self._store.get(Family.INDEX, META_COLLECTED) or b""
        for chunk in _chunks(self._store.scan(Family.CHANGES, start)):
            for entry_key, entry in chunk:
                commit, key = parse_change_key(entry_key)
                older, _ = parse_change_value(entry)
                if older >= commit or commit > self._last_commit:
                    self._wrong(f"key {key!r}: commit {commit} is said to have replaced {older}")
                if older:
                    self._older.add_right(key, (key, older))
            counter.add(len(chunk))
        for entry_key, entry in self._store.scan(Family.INDEX, RETAINED, _end_of(RETAINED)):
            _, _, key = parse_retained_key(entry_key)
            self._older.add_right(key, (key, parse_number(entry)))

    def _tell_suspects(self, bucket: int) -> None:
        """Find the older versions of a bucket that nothing leads to, or the other way round."""
        there = {
            parse_history_key(entry_key)
            for entry_key, _ in self._store.scan(Family.HISTORY, b"")
            if Sums.bucket(parse_history_key(entry_key)[0]) == bucket
        }
        led_to = set(self._led_to(bucket))
        for key, commit in sorted(there ^ led_to)[:10]:
            if (key, commit) in there:
                self._wrong(f"key {key!r}: nothing leads to its version {commit}")
            else:
                self._wrong(f"key {key!r}: its version {commit} is missing")

    def _led_to(self, bucket: int) -> Iterator[tuple[bytes, int]]:
        start = self._store.get(Family.INDEX, META_COLLECTED) or b""
        for entry_key, entry in self._store.scan(Family.CHANGES, start):
            _, key = parse_change_key(entry_key)
            older, _ = parse_change_value(entry)
            if older and Sums.bucket(key) == bucket:
                yield key, older
        for entry_key, entry in self._store.scan(Family.INDEX, RETAINED, _end_of(RETAINED)):
            _, _, key = parse_retained_key(entry_key)
            if Sums.bucket(key) == bucket:
                yield key, parse_number(entry)

    def _check_snapshots(self, counter: Counter) -> None:
        stream, version = "", 0
        for key, entry in self._store.scan(Family.LATEST, SNAPSHOTS, SNAPSHOTS_END):
            counter.add(1)
            if len(entry) < _LATEST_SIZE_MIN or not entry[8]:
                continue
            try:
                snapshot = parse_snapshot_key(key)
            except (ValueError, ArithmeticError):
                self._wrong_snapshot(f"key {key!r} is not that of a snapshot")
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
    """Checks that the index of transaction ids and the commit log say the same."""

    def __init__(self, state: CheckpointedState, report: Report) -> None:
        self._state = state
        self._store = state.store
        self._report = report
        self._forgotten = parse_number(state.store.get(Family.INDEX, META_FORGOTTEN))

    def check(self, counter: Counter) -> None:
        """Look at every transaction id."""
        sums = Sums()
        fenced = Sums()
        for record in commit_records(self._state.commit_log):
            if isinstance(record, DamagedFile) or record.transaction == LOST_TRANSACTION:
                continue
            if record.commit > self._forgotten:
                sums.add_left(record.transaction, (record.transaction, record.commit))
        for transaction, entry in self._store.scan(Family.TRANSACTIONS, b""):
            counter.add(1)
            commit = parse_number(entry)
            if commit == 0:
                fenced.add_left(transaction, entry[8:])
            elif commit <= self._state.applied_commit:
                sums.add_right(transaction, (transaction, commit))
        for entry_key, _ in self._store.scan(Family.INDEX, ABORTED, _end_of(ABORTED)):
            time, transaction = parse_aborted_key(entry_key)
            fenced.add_right(transaction, aborted_key(time, b"")[1:])
        if fenced.suspects:
            self._wrong("fenced transactions are not listed by time as they are by id")
        if suspects := sums.suspects:
            self._tell_suspects(suspects)

    def _tell_suspects(self, suspects: set[int]) -> None:
        known: dict[bytes, int] = {}
        for transaction, entry in self._store.scan(Family.TRANSACTIONS, b""):
            commit = parse_number(entry)
            if Sums.bucket(transaction) in suspects and 0 < commit <= self._state.applied_commit:
                known[transaction] = commit
        for record in commit_records(self._state.commit_log):
            if isinstance(record, DamagedFile) or record.commit <= self._forgotten:
                continue
            if Sums.bucket(record.transaction) not in suspects:
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
