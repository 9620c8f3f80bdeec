"""Stored state: reads of what the last checkpoint wrote to state store, event log and commit log.

    LATEST    key -> its newest version; a deletion stays while an older version is in HISTORY
    HISTORY   older versions, as far as the history window or a read view needs them

                 commit   1    2    3    4    5    6
    key a                 x----------------x--------     LATEST 5, HISTORY 1 until 5
    key b                      x---------o               LATEST 4 (deleted), HISTORY 2 until 4
    read at commit 3      a: LATEST is of 5, so take the first in HISTORY until 4 or later: 1
                          b: LATEST is of 4, likewise: 2

LATEST has every key that has any version. So a scan at any view walks LATEST, and looks into
HISTORY only for keys that were written after the view.

Reads continue while a checkpoint is written in another thread. This is safe without a lock:
- `applied_commit` and `applied_position` say what readers may expect here. Only `advance` changes
  them, on the reading thread. Whatever the files hold beyond them is also in the frozen memtable,
  which readers ask first.
- All versions of a key go into the store in one batch. So a reader finds either the old LATEST, or
  the new one and the old version in HISTORY.
- Garbage collection keeps what any active view and any commit from the horizon on can see, and no
  read may begin below the horizon.
The same holds after a crash during a checkpoint: recovery replays everything beyond
`applied_commit` from the write-ahead log into the memtable before any read.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.format.index_keys import (
    CATEGORY,
    HEAD_SIZE,
    IDS_END,
    META_APPLIED,
    META_CLOCK,
    META_FORGOTTEN,
    META_HORIZON,
    META_UNFINISHED,
    NUMBER,
    NUMBER_END,
    STREAM,
    TAG,
    TYPE,
    Applied,
    IndexHead,
    Stored,
    changes_key,
    event_id_key,
    find_in_id_bucket,
    history_key,
    id_bucket_key,
    latest_commit,
    parse_applied,
    parse_changes,
    parse_clock,
    parse_latest,
    parse_latest_value,
    parse_number,
    parse_unfinished,
)
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.state import postings
from headwater_server.engine.state.latest_cache import LatestCache
from headwater_server.engine.state.scan_cache import (
    KEYS_MIN,
    CachedRange,
    PackedRun,
    ScanCache,
    ValueRun,
    packed_run,
)
from headwater_server.engine.state.seen_ids import SeenIds, read_seen_ids
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.store.interface import Family, StateStore

_INDEXES: Final = {"category": CATEGORY, "type": TYPE, "tag": TAG}


def read_applied(store: StateStore) -> Applied:
    """What the last checkpoint made durable; all zero for an empty store.

    If a later checkpoint was begun, its commits were durable in the write-ahead log, and
    `log_index` includes them: a log that has lost them is damaged.
    """
    applied = parse_applied(store.get(Family.INDEX, META_APPLIED))
    _, log_index = parse_unfinished(store.get(Family.INDEX, META_UNFINISHED))
    return applied._replace(log_index=max(applied.log_index, log_index))


def oldest_needed(store: StateStore) -> int:
    """The oldest commit whose record must be in the commit log; earlier ones are forgotten."""
    return parse_number(store.get(Family.INDEX, META_FORGOTTEN)) + 1


def read_time(store: StateStore, applied: Applied, commit_log: CommitLog) -> LogTime:
    """What the log said about time at the last checkpoint."""
    entry = store.get(Family.INDEX, META_CLOCK)
    horizon = parse_number(store.get(Family.INDEX, META_HORIZON))
    if entry is None:
        # Format 3 had no such entry. Until the first tick, a forgotten id must not be taken for a
        # new one. All forgotten ids are of commits before the oldest one that is known.
        forgotten = parse_number(store.get(Family.INDEX, META_FORGOTTEN))
        # The newest commit is never forgotten; only a repaired store can say so.
        known = 0 < forgotten < commit_log.last_commit
        before = commit_log.read(CommitNumber(forgotten + 1)).time if known else 0
        return LogTime(applied.time, horizon, before)
    time = parse_clock(entry)
    return time._replace(horizon=max(time.horizon, horizon))


class StoredState:
    """Reads of the files. A `view` is a commit number; it sees that commit and all before.

    Attributes:
        applied: commit, position and time of the last checkpoint.
        time: what the log said about time at the last checkpoint.
        horizon: every commit from here on can be read; earlier ones only by active views.
        seen_ids: which transaction ids the files may have.
        store, event_log, commit_log: the files, for the checkpoint that writes them.
        latest: the LATEST cache of the reading thread.
        handed_over: the LATEST cache of the running checkpoint; see latest_cache.py.
    """

    def __init__(self, store: StateStore, event_log: EventLog, commit_log: CommitLog) -> None:
        self.store = store
        self.event_log = event_log
        self.commit_log = commit_log
        self.applied = read_applied(store)
        self.time = read_time(store, self.applied, commit_log)
        self.horizon = self.time.horizon
        self.seen_ids = read_seen_ids(store, self.time.time)
        self.latest = LatestCache()
        # The view that was last asked for, as it is compared with entries.
        self._view = 0
        self._packed_view = NUMBER.pack(0)
        self.handed_over = LatestCache()
        self._scan_cache = ScanCache()

    @property
    def applied_commit(self) -> CommitNumber:
        """The newest commit of the last checkpoint."""
        return CommitNumber(self.applied.commit)

    @property
    def applied_position(self) -> Position:
        """The newest position of the last checkpoint."""
        return Position(self.applied.position)

    def advance(self, applied: Applied, time: LogTime) -> None:
        """Let readers use what a checkpoint wrote, up to a commit and a time of the log.

        Called on the reading thread, together with dropping the frozen memtable and without a
        read in between.
        """
        assert applied.commit >= self.applied.commit
        self.applied = applied
        self.time = time
        self.latest, self.handed_over = self.handed_over, LatestCache()
        self._scan_cache.forget_all()

    def add_seen_ids(self, added: SeenIds) -> None:
        """Add the transaction ids that the last checkpoint wrote."""
        self.seen_ids.absorb(added, self.time.time)
        if self.seen_ids.is_outrun:
            self.seen_ids = read_seen_ids(self.store, self.time.time)

    def reopen(self) -> None:
        """Reopen the store after DiskFull, so that the checkpoint can be written again.

        Called on the reading thread while no checkpoint runs. Whatever the store lost of the failed
        attempt is still in the frozen memtable.

        Raises:
            DiskFull: there is still no room. Nothing can be read until another call succeeds.
        """
        self._scan_cache.forget_all()
        self.latest = LatestCache()
        self.handed_over = LatestCache()
        self.store.reopen()
        assert read_applied(self.store).commit >= self.applied.commit, "what was flushed stays"

    def hand_over(self) -> None:
        """Hand the LATEST cache to the checkpoint that is about to begin, until `advance`.

        Called on the reading thread. A checkpoint that fails does not give it back.
        """
        self.latest.make_room()
        self.latest, self.handed_over = LatestCache(), self.latest

    def for_another_thread(self) -> "StoredState":
        """The same files with separate caches; not to be used while a checkpoint runs."""
        other = StoredState(self.store, self.event_log, self.commit_log)
        other.applied = self.applied
        other.time = self.time
        other.horizon = self.horizon
        return other

    # Keys.

    def value_at(self, key: bytes, view: int) -> bytes | None:
        """The value of a key at *view*, or None if it had none."""
        entry = self.latest.found.get(key)
        if entry is None:
            entry = self.store.get(Family.LATEST, key)
            if entry is None:
                return None
            if entry[8]:
                self.latest.add(key, entry)
        if view != self._view:
            self._view = view
            self._packed_view = NUMBER.pack(view)
        # An entry begins with its commit, big-endian, so the bytes compare as the numbers do.
        if entry[:8] <= self._packed_view:
            return entry[HEAD_SIZE:] if entry[8] == 1 else parse_latest(entry).value
        before = self._version_before(key, view)
        return None if before is None else before.value

    def newest_commit(self, key: bytes) -> int:
        """The commit that wrote the key last, or 0.

        Also 0 for a key that was deleted before the horizon, as if it had never been written.
        """
        entry = self.store.get(Family.LATEST, key)
        return 0 if entry is None else latest_commit(entry)

    def scan(
        self, start: bytes, end: bytes | None, view: int, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, int, bytes | None]]:
        """Key, commit and value of each key in [start, end) that has a version at *view*.

        A deleted key has the value None while its deletion is stored.
        """
        for key, entry in self.store.scan(Family.LATEST, start, end, reverse=reverse):
            found: Stored | None = parse_latest(entry)
            assert found is not None
            if found.commit > view:
                found = self._version_before(key, view)
                if found is None:
                    continue
            yield key, found.commit, found.value

    def run(
        self,
        start: bytes,
        end: bytes,
        view: int,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> PackedRun:
        """The first existing keys of a range: at most *count_max*, about *size_max* bytes.

        There may be fewer, or none, although the range goes on.
        """
        if reverse:
            run = self.run_at(
                start, end, view, count_max=count_max, size_max=size_max, reverse=True
            )
            return packed_run(run.keys, run.values, run.rest)
        cached = self._scan_cache.find(start)
        if cached is None:
            cached = self._cached_range(start, end, count_max, size_max)
        if cached.newest <= view:
            return cached.run(start, end, count_max)
        # This view is older than some of these keys.
        upto = min(end, cached.end)
        run = self.run_at(start, upto, view, count_max=count_max, size_max=size_max)
        if run.rest is None and upto < end:
            run.rest = upto
        return packed_run(run.keys, run.values, run.rest)

    def _cached_range(self, start: bytes, end: bytes, count: int, size_max: int) -> CachedRange:
        """The cached range that begins with *start*, read from the files."""
        end = self._scan_cache.next_start(start, end)
        found = self.store.page(
            Family.LATEST, start, end, count_max=max(count, KEYS_MIN), size_max=size_max
        )
        # An entry begins with its commit, so the greatest entry has the newest commit.
        newest = latest_commit(max(found.values)) if found.values else 0
        values = [parse_latest_value(entry) for entry in found.values]
        if found.more:
            end = found.keys[-1] + b"\0"
        cached = CachedRange(start, end, packed_run(found.keys, values, None), newest)
        self._scan_cache.add(cached)
        return cached

    def run_at(
        self,
        start: bytes,
        end: bytes,
        view: int,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> ValueRun:
        """As `run`, but always from the files, without the cache.

        Includes keys that do not exist at the view, with the value None.
        """
        found = self.store.page(
            Family.LATEST, start, end, count_max=count_max, size_max=size_max, reverse=reverse
        )
        values: list[bytes | None] = []
        for key, entry in zip(found.keys, found.values, strict=True):
            version: Stored | None = parse_latest(entry)
            if version is not None and version.commit > view:
                version = self._version_before(key, view)
            values.append(None if version is None else version.value)
        rest: bytes | None = None
        if found.more:
            rest = found.keys[-1] if reverse else found.keys[-1] + b"\0"
        return ValueRun(found.keys, values, rest)

    def newest_commits(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int]]:
        """The keys of a range, each with the commit that wrote it last."""
        for key, entry in self.store.scan(Family.LATEST, start, end):
            yield key, latest_commit(entry)

    def changes_after(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Each commit after *after* with each key that it changed, in the order of commits.

        Commits before the horizon are missing.
        """
        for _, entry in self.store.scan(Family.CHANGES, changes_key(after + 1)):
            for commit, _, key in parse_changes(entry):
                if commit > after:
                    yield commit, key

    def _version_before(self, key: bytes, view: int) -> Stored | None:
        start, end = history_key(key, view + 1), history_key(key, NUMBER_END)
        for _, entry in self.store.scan(Family.HISTORY, start, end):
            found = parse_latest(entry)
            return found if found.commit <= view else None
        return None

    # Streams, categories, types, tags.

    def stream_head(self, name: str) -> IndexHead | None:
        """The end of a stream, or None if it has no events."""
        head = postings.read_head(self.store, STREAM, name)
        if head is None or head.last_position <= self.applied.position:
            return head
        # A checkpoint that is running, or was interrupted by a crash, has written a later head.
        position = self.applied.position
        version = postings.version_at_position(self.store, head, position)
        if version == 0:
            return None
        last = postings.positions_of_versions(self.store, head, version, version)[0]
        tail = head.tail[: bisect_right(head.tail, position)]
        return IndexHead(head.id, version, last, tail)

    def stream_positions(self, name: str, first: int, last: int) -> "array[int]":
        """The positions of a stream's existing versions *first* to *last*, both included."""
        head = self.stream_head(name)
        if head is None or first > last:
            assert first > last, f"versions {first} to {last} of a stream without events"
            return array("Q")
        return postings.positions_of_versions(self.store, head, first, last)

    def stream_version_at(self, name: str, position: int) -> int:
        """The stream's version when *position* was the newest of all positions."""
        head = postings.read_head(self.store, STREAM, name)
        if head is None or head.id > position:
            return 0
        position = min(position, self.applied.position)
        return postings.version_at_position(self.store, head, position)

    def indexed_count(self, index: str, name: str) -> int:
        """How many events a category, a type or a tag has in the files."""
        head = postings.read_head(self.store, _INDEXES[index], name)
        return 0 if head is None else head.version

    def indexed_positions(
        self, index: str, name: str, after: int, upto: int, limit: int, *, reverse: bool = False
    ) -> "array[int]":
        """At most *limit* positions in (after, upto], in order or in reverse.

        *index* is "category", "type" or "tag", and *name* one of that kind.
        """
        kind = _INDEXES[index]
        upto = min(upto, self.applied.position)
        head = postings.read_head(self.store, kind, name) if after < upto else None
        if head is None:
            return array("Q")
        return postings.positions_between(
            self.store, kind, head, after, upto, limit, reverse=reverse
        )

    def event_version(self, stream_id: int, event_id: bytes) -> int | None:
        """The version of the stream's event to which a user gave this id, or None."""
        entry = self.store.get(Family.INDEX, event_id_key(stream_id, event_id))
        return None if entry is None else parse_number(entry)

    # Events.

    def events(self, positions: Sequence[int]) -> list[bytes]:
        """The stored events at existing positions, in the given order."""
        return self.event_log.read_many(positions)

    def events_within(self, positions: Sequence[int], size_max: int, *, least: int) -> list[bytes]:
        """The first of the events at *positions*, up to a size, but *least* of them at least."""
        return self.event_log.read_within(positions, size_max, least=least)

    def events_from(self, first: int, count_max: int, size_max: int) -> list[bytes]:
        """Stored events from position *first* on, at least one, until a count or size is full."""
        count = min(count_max, self.applied.position - first + 1)
        return self.event_log.read(Position(first), count, size_max) if count > 0 else []

    # Commits.

    @property
    def oldest_commit(self) -> CommitNumber:
        """The oldest commit in the commit log; earlier records are forgotten."""
        return self.commit_log.first_commit

    def transaction(self, transaction: bytes) -> int | None:
        """The commit number of a transaction, 0 if it was fenced, None if neither is known."""
        entry = self.store.get(Family.TRANSACTIONS, transaction)
        if entry is not None:
            return parse_number(entry)
        if transaction >= IDS_END:
            return None
        bucket = self.store.get(Family.TRANSACTIONS, id_bucket_key(transaction))
        return None if bucket is None else find_in_id_bucket(bucket, transaction)

    def commit_record(self, commit: int) -> CommitRecord:
        """The record of a commit that is not forgotten."""
        return self.commit_log.read(CommitNumber(commit))

    def commit_at(self, time: int) -> CommitNumber:
        """The newest commit with a time (microseconds) at or before *time*, or 0."""
        return CommitNumber(min(self.commit_log.at_time(time), self.applied.commit))
