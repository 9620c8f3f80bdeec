"""Garbage collection: removes superseded versions that no view can read, and old transaction ids.

A version is visible from its own commit until the commit that replaced it. Every view from the
horizon on is protected, and so is each active view before it:

    commit          1    2    3    4    5    6    7    8
    active views              v                   h = horizon
    key a           x---------|----y----|----z----|----------
    x  [1, 4)       the view at 3 reads it: kept
    y  [4, 6)       no view, and replaced before the horizon: garbage
    z  [6, ...)     the newest: it stays

So an old reader costs one version per key, not everything since it began. (Many systems keep
everything newer than the oldest reader, so that one forgotten session can fill the disk.)

CHANGES is the work list. It is read once, in commit order, up to the horizon. "m" "collected" says
how far, and an entry is deleted once all its changes were examined. A version that only a view
protects is filed under that view ("r" entries of INDEX). When the view ends, the version is
examined again: it is garbage, or it is filed under another view. So the cost of a run depends on
the changes since the last run and on what ended views had kept. It never scans the whole store.

A deletion is a version too. It stays in LATEST while there is an older version in HISTORY, because
scans find keys by LATEST. After that, no trace of the key is left.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.format.index_keys import (
    ABORTED,
    CHANGE_EXISTS,
    CHANGE_REPLACED,
    IDS_END,
    META_COLLECTED,
    META_FORGOTTEN,
    NUMBER,
    NUMBER_END,
    Change,
    aborted_key,
    changes_key,
    collected_value,
    history_key,
    id_bucket_entry,
    id_bucket_key,
    latest_commit,
    parse_aborted_key,
    parse_changes,
    parse_collected,
    parse_latest,
    parse_number,
    parse_retained_key,
    parse_transactions,
    retained_key,
)
from headwater_server.engine.pacing import YieldGil, unpaced
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.store.interface import Family, StateStore, WriteBatch

BATCH_VERSIONS_MAX: Final = 128
"""Versions that are removed in one batch. Writing a batch holds the GIL."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Collected:
    """What one run of garbage collection did."""

    examined: int
    """Versions examined."""
    versions: int
    """Versions removed."""
    deletions: int
    """Deleted keys of which nothing is left."""
    retained: int
    """Versions that were filed under a view that keeps them."""
    complete: bool
    """Whether nothing is left to do until the next commit or the end of a view."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How far transactions are forgotten."""

    commit: int
    """The transaction ids of this commit and of earlier ones are no longer known."""
    transactions: int
    """How many this run forgot, including fenced ones."""
    trim_below: CommitNumber
    """Records of the commit log before this commit are not needed any more."""


def is_needed(commit: int, next_commit: int, horizon: int, views: Sequence[int]) -> bool:
    """Whether any view can still read a version that *next_commit* replaced."""
    return next_commit > horizon or keeper(commit, next_commit, views) is not None


def keeper(commit: int, next_commit: int, views: Sequence[int]) -> int | None:
    """The oldest of the sorted *views* that reads a version that *next_commit* replaced."""
    index = bisect_left(views, commit)
    return views[index] if index < len(views) and views[index] < next_commit else None


def collect_garbage(
    store: StateStore,
    *,
    upto: int,
    views: Sequence[int],
    entries_max: int,
    yield_gil: YieldGil = unpaced,
    batch_versions_max: int = BATCH_VERSIONS_MAX,
) -> Collected:
    """Remove versions that were replaced at or before the commit *upto* and that no view reads.

    Args:
        upto: the horizon, or the newest applied commit if that is lower.
        views: the active read views, sorted. A view may begin meanwhile, but not below *upto*.
        entries_max: new versions to examine, and as many that ended views had kept.
        yield_gil: called whenever other threads may take the GIL for a while.
        batch_versions_max: after how many versions a batch is written.
    """
    run = _Run(store, views, yield_gil, batch_versions_max)
    released = run.release(entries_max)
    swept = run.sweep(upto, entries_max)
    return Collected(run.examined, run.versions, run.deletions, run.retained, released and swept)


class _Run:
    """One run of garbage collection: decides version by version, writes batch by batch.

    Each batch moves the cursor, so after a crash the cursor agrees with the batches that survived.
    """

    def __init__(
        self, store: StateStore, views: Sequence[int], yield_gil: YieldGil, batch_versions_max: int
    ) -> None:
        self._store = store
        self._yield_gil = yield_gil
        self._batch_versions_max = batch_versions_max
        self._views = views
        self._batch = WriteBatch()
        self._removed: set[bytes] = set()
        self._perhaps_gone: dict[bytes, None] = {}
        # All changes before this commit were examined, and those of these keys by the commit.
        self._commit, count = parse_collected(store.get(Family.INDEX, META_COLLECTED))
        self._keys = {key for _, _, key in islice(_changes(store, self._commit), count)}
        self._kept_by_views = next(_retained(store, 0, NUMBER_END), None) is not None
        self.examined = self.versions = self.deletions = self.retained = 0

    def release(self, entries_max: int) -> bool:
        """Examine versions kept for views that have ended; return whether that was all of them."""
        left = entries_max
        view = 0
        # One seek for each view that keeps versions, not a scan over all entries.
        while (found := next(_retained(self._store, view, NUMBER_END), None)) is not None:
            view = found[0]
            if not self._is_active(view):
                if left == 0:
                    return False
                left -= self._release_view(view, left)
            if left or self._is_active(view):
                view += 1
        return True

    def _is_active(self, view: int) -> bool:
        index = bisect_left(self._views, view)
        return index < len(self._views) and self._views[index] == view

    def _release_view(self, view: int, entries_max: int) -> int:
        count = 0
        kept = islice(_retained(self._store, view, view + 1), entries_max)
        for chunk in _chunks(kept, self._batch_versions_max):
            for _, next_commit, key, commit in chunk:
                self._batch.delete(Family.INDEX, retained_key(view, next_commit, key))
                if not self._keep_or_remove(key, commit, next_commit):
                    self._perhaps_gone[key] = None
            count += len(chunk)
            self.examined += len(chunk)
            self._write()
        return count

    def sweep(self, upto: int, entries_max: int) -> bool:
        """Examine the changes since the last run, up to a commit; return whether that was all."""
        if upto < self._commit:
            return True
        count = 0
        done = len(self._keys)
        changes = islice(_changes(self._store, self._commit, upto), done, done + entries_max)
        for chunk in _chunks(changes, self._batch_versions_max):
            self._look_at(chunk)
            count += len(chunk)
            self._batch.put(Family.INDEX, META_COLLECTED, self._cursor)
            self._write()
        complete = count < entries_max
        if complete:
            self._commit = upto + 1
            self._keys.clear()
        # One range delete for the run, not one for each batch, because the store keeps each as a
        # separate object. It also covers entries before the cursor that a crash has left.
        self._batch.delete_range(Family.CHANGES, b"", changes_key(self._commit))
        self._batch.put(Family.INDEX, META_COLLECTED, self._cursor)
        self._store.write(self._batch)
        self._batch = WriteBatch()
        return complete

    @property
    def _cursor(self) -> bytes:
        return collected_value(self._commit, len(self._keys))

    def _look_at(self, changes: list[Change]) -> None:
        replaced = [(commit, key) for commit, flags, key in changes if flags & CHANGE_REPLACED]
        self.examined += len(replaced)
        if self._views and self._views[0] < changes[-1][0]:
            # A view may keep some of these, so their own commits must be looked up.
            entry_keys = [history_key(key, commit) for commit, key in replaced]
            entries = self._store.get_many(Family.HISTORY, entry_keys)
            for (commit, key), entry in zip(replaced, entries, strict=True):
                # It is absent if it was removed before a crash that undid the cursor.
                if entry is not None:
                    self._keep_or_remove(key, latest_commit(entry), commit)
        else:
            for commit, key in replaced:
                self._remove(key, commit)
        for commit, flags, key in changes:
            if not flags & CHANGE_EXISTS:
                self._perhaps_gone[key] = None
            if commit != self._commit:
                self._commit = commit
                self._keys = set()
            self._keys.add(key)

    def _keep_or_remove(self, key: bytes, commit: int, next_commit: int) -> bool:
        view = keeper(commit, next_commit, self._views)
        if view is not None:
            entry = NUMBER.pack(commit)
            self._batch.put(Family.INDEX, retained_key(view, next_commit, key), entry)
            self._kept_by_views = True
            self.retained += 1
            return True
        self._remove(key, next_commit)
        return False

    def _remove(self, key: bytes, until: int) -> None:
        removed = history_key(key, until)
        self._batch.delete(Family.HISTORY, removed)
        self._removed.add(removed)
        self.versions += 1

    def _write(self) -> None:
        """Write the batch; also remove keys of which only a deletion is left.

        Deletions whose own change is at or after the cursor are left for later, because what they
        replaced was not examined yet.
        """
        keys = sorted(self._perhaps_gone)
        entries = self._store.get_many(Family.LATEST, keys) if keys else []
        for key, entry in zip(keys, entries, strict=True):
            if entry is None:
                continue
            commit, value = parse_latest(entry)
            is_seen = commit < self._commit or (commit == self._commit and key in self._keys)
            if value is None and is_seen and not self._has_history(key):
                self._batch.delete(Family.LATEST, key)
                self.deletions += 1
        self._store.write(self._batch)
        self._batch = WriteBatch()
        self._removed.clear()
        self._perhaps_gone.clear()
        self._yield_gil()

    def _has_history(self, key: bytes) -> bool:
        # The versions before a deletion were examined before it, so only a view can keep any.
        # Usually no view keeps anything, and the search can be skipped.
        if not self._kept_by_views:
            return False
        start, end = history_key(key, 0), history_key(key, NUMBER_END)
        return any(
            entry_key not in self._removed
            for entry_key, _ in self._store.scan(Family.HISTORY, start, end)
        )


def forget_transactions(
    store: StateStore,
    commit_log: CommitLog,
    *,
    before: int,
    keep_from: int,
    records_max: int,
) -> Forgotten:
    """Forget the ids of transactions that ended before a time (microseconds).

    Args:
        before: the time, by the clock that the records' times are from.
        keep_from: records of the commit log from here on are needed to read at past commits.
        records_max: how many to forget at most.
    """
    forgotten = parse_number(store.get(Family.INDEX, META_FORGOTTEN))
    start = max(forgotten + 1, commit_log.first_commit)
    # Keep the newest record: the next commit's time must not be before its time.
    end = min(commit_log.last_commit, start + records_max)
    count = 0
    while start < end:
        records = [
            record
            for record in commit_log.read_range(
                CommitNumber(start), min(BATCH_VERSIONS_MAX, end - start)
            )
            if record.time < before
        ]
        if not records:
            break
        batch = WriteBatch()
        _forget_ids(store, [record.transaction for record in records], batch)
        forgotten = records[-1].commit
        batch.put(Family.INDEX, META_FORGOTTEN, NUMBER.pack(forgotten))
        store.write(batch)
        count += len(records)
        start = forgotten + 1
    count += _forget_aborted(store, before, records_max)
    return Forgotten(forgotten, count, CommitNumber(min(forgotten + 1, keep_from)))


def _forget_ids(store: StateStore, transactions: list[bytes], batch: WriteBatch) -> None:
    buckets: dict[bytes, set[bytes]] = {}
    for transaction in transactions:
        if transaction < IDS_END:
            buckets.setdefault(id_bucket_key(transaction), set()).add(transaction)
        else:
            batch.delete(Family.TRANSACTIONS, transaction)
    entry_keys = list(buckets)
    entries = store.get_many(Family.TRANSACTIONS, entry_keys) if entry_keys else []
    for entry_key, entry in zip(entry_keys, entries, strict=True):
        gone = buckets[entry_key]
        known = [] if entry is None else parse_transactions(entry_key, entry)
        left = [id_bucket_entry(each, commit) for each, commit in known if each not in gone]
        if left:
            batch.put(Family.TRANSACTIONS, entry_key, b"".join(left))
        elif known:
            batch.delete(Family.TRANSACTIONS, entry_key)
        for transaction in gone.difference([each for each, _ in known]):
            batch.delete(Family.TRANSACTIONS, transaction)


def _forget_aborted(store: StateStore, before: int, records_max: int) -> int:
    count = 0
    entries = store.scan(Family.INDEX, ABORTED, aborted_key(max(before, 0), b""))
    for chunk in _chunks(islice(entries, records_max), BATCH_VERSIONS_MAX):
        batch = WriteBatch()
        for entry_key, _ in chunk:
            batch.delete(Family.INDEX, entry_key)
            batch.delete(Family.TRANSACTIONS, parse_aborted_key(entry_key)[1])
        store.write(batch)
        count += len(chunk)
    return count


def _changes(store: StateStore, first: int, last: int = NUMBER_END) -> Iterator[Change]:
    """The changes of the commits from *first* up to *last*, in the order of commits."""
    for _, entry in store.scan(Family.CHANGES, changes_key(first)):
        for change in parse_changes(entry):
            if change[0] > last:
                return
            if change[0] >= first:
                yield change


def _retained(
    store: StateStore, first_view: int, end_view: int
) -> Iterator[tuple[int, int, bytes, int]]:
    """View, replacing commit, key and own commit of each version that a view keeps."""
    start, end = retained_key(first_view, 0, b""), retained_key(end_view, 0, b"")
    for entry_key, entry in store.scan(Family.INDEX, start, end):
        view, next_commit, key = parse_retained_key(entry_key)
        yield view, next_commit, key, parse_number(entry)


def _chunks(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, count)):
        yield chunk
