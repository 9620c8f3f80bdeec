"""The part of a checkpoint that puts a memtable into the state store.

A key's chain comes down like this (horizon 6, one read view at 2):

    commit      1     3     4     7     9          written
    chain             a-----b-----c-----d          LATEST 9
    stored      z                                  HISTORY 1 (the view), 4 (7 > 6), 7; not 3

A version lives from its commit to that of the next one. It is needed by the history window if
the next one is above the horizon, and by a view that lies in between. One that nobody needs any
more is not written at all.
"""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeVar

from headwater_server.engine.garbage import is_needed
from headwater_server.engine.index_keys import (
    CATEGORY,
    EXISTS,
    META_APPLIED,
    META_HORIZON,
    META_UNFINISHED,
    NUMBER,
    POSTING_COUNT_MAX,
    STREAM,
    TAG,
    TAIL_COUNT_MAX,
    TYPE,
    Applied,
    IndexHead,
    aborted_key,
    aborted_value,
    applied_value,
    change_key,
    change_value,
    event_id_key,
    head_key,
    head_value,
    history_key,
    history_value,
    latest_commit,
    latest_history_value,
    latest_value,
    pack_positions,
    parse_applied,
    parse_head,
    parse_unfinished,
    posting_key,
    unfinished_value,
)
from headwater_server.engine.memtable import MemTable, Version
from headwater_server.storage.state_store import Family, StateStore, WriteBatch

BATCH_ENTRIES_MAX: Final = 1024
"""Entries after which a batch is written. The store holds the interpreter meanwhile: 2 ms."""

BATCH_SIZE_MAX: Final = 2 * 1024 * 1024
"""Bytes, not counting keys, after which a batch is written: values may be large."""

_LOOKUPS: Final = 512
"""Keys that are looked up in one call."""

_RUN_KEYS: Final = 4096
"""Keys that are sorted in one call, which holds the interpreter for about 2 ms."""

_T = TypeVar("_T")


class StateWriter:
    """Puts a memtable into the state store, in small batches.

    Attributes:
        keys: keys whose newest version was written.
        versions: older versions that were put into the history.
        changes: entries that garbage collection will look at.
    """

    def __init__(
        self,
        frozen: MemTable,
        store: StateStore,
        *,
        horizon: int,
        views: Sequence[int],
        log_index: int,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
    ) -> None:
        self._frozen = frozen
        self._store = store
        self._horizon = horizon
        self._views = views
        self._log_index = log_index
        self._batch_entries_max = batch_entries_max
        self._batch = WriteBatch()
        self._put = self._batch.put
        self._size = 0
        self.keys = 0
        self.versions = 0
        self.changes = 0

    def write(self) -> Applied:
        """Write all of the memtable, and the new applied commit last."""
        frozen = self._frozen
        unfinished, log_index = parse_unfinished(self._store.get(Family.INDEX, META_UNFINISHED))
        before = parse_applied(self._store.get(Family.INDEX, META_APPLIED))
        last = frozen.last_commit
        # The horizon goes ahead of what is no longer written because of it.
        self._put(Family.INDEX, META_HORIZON, NUMBER.pack(self._horizon))
        mark = unfinished_value(max(unfinished, last), max(log_index, self._log_index))
        self._put(Family.INDEX, META_UNFINISHED, mark)
        self._write_keys()
        self.write_index(interrupted=unfinished > 0)
        self._write_transactions()
        self._write_batch()
        time = frozen.commits[-1].time if frozen.commits else before.time
        applied = Applied(last, frozen.last_position, time, self._log_index)
        self._put(Family.INDEX, META_APPLIED, applied_value(applied))
        # An attempt before a crash may have gone further than we; then a later one ends it.
        if unfinished <= last:
            self._batch.delete(Family.INDEX, META_UNFINISHED)
        self._write_batch()
        return applied

    # Batches.

    def _end_of_item(self, size: int) -> None:
        """What was put since the last call is whole: here, and here only, a batch may end."""
        self._size += size
        if len(self._batch.operations) >= self._batch_entries_max or self._size >= BATCH_SIZE_MAX:
            self._write_batch()

    def _write_batch(self) -> None:
        self._store.write(self._batch)
        self._batch.operations.clear()
        self._size = 0

    # Keys.

    def _write_keys(self) -> None:
        for keys in _chunks(_in_order(self._frozen.chains), _LOOKUPS):
            stored = self._store.get_many(Family.LATEST, keys)
            for key, entry in zip(keys, stored, strict=True):
                self._end_of_item(self._write_key(key, entry))

    def _write_key(self, key: bytes, entry: bytes | None) -> int:
        """Put all entries of a key; returns their size in bytes, about."""
        commit, value, older = self._frozen.chains[key]
        stored = 0 if entry is None else latest_commit(entry)
        if commit <= stored:
            # An attempt before this one has written it.
            return 0
        size = 0
        kept = looked_at = False
        newer, newer_exists = commit, value is not None
        for replaced, content in _versions_before(older, stored, entry):
            if is_needed(replaced, newer, self._horizon, self._views):
                self._put(Family.HISTORY, history_key(key, replaced), content)
                self._put_change(newer, key, replaced, newer_exists)
                self.versions += 1
                size += len(content)
                kept = True
                looked_at |= newer == commit
            newer, newer_exists = replaced, content[:1] == EXISTS
        if entry is None and newer > self._horizon:
            self._put_change(newer, key, 0, newer_exists)
        if value is None and commit <= self._horizon:
            if entry is None and not kept:
                # Made and deleted, and nobody can see that it ever was.
                return 0
            if not looked_at:
                # Garbage collection must see the deletion, or it would stay for good.
                self._put_change(commit, key, 0, False)
        latest = latest_value(commit, value)
        self._put(Family.LATEST, key, latest)
        self.keys += 1
        return size + len(latest)

    def _put_change(self, commit: int, key: bytes, older: int, exists: bool) -> None:
        self._put(Family.CHANGES, change_key(commit, key), change_value(older, exists=exists))
        self.changes += 1

    # Streams, categories, types, tags.

    def write_index(self, *, interrupted: bool) -> None:
        """Write what the events add to the index; *interrupted* if some of it may be there."""
        self._write_streams(interrupted=interrupted)
        self._write_names(CATEGORY, self._frozen.categories)
        self._write_names(TYPE, self._frozen.types)
        self._write_names(TAG, self._frozen.tags)
        self._write_batch()

    def _write_streams(self, *, interrupted: bool) -> None:
        for names in _chunks(self._frozen.streams, _LOOKUPS):
            # A stream that begins in this memtable has no head yet, unless an attempt before
            # this one wrote it.
            known = [
                name for name in names if interrupted or self._frozen.streams[name].base_version
            ]
            heads = dict(zip(known, self._read_heads(STREAM, known), strict=True))
            for name in names:
                tail = self._frozen.streams[name]
                if not tail.positions:
                    continue
                self._write_positions(STREAM, name, heads.get(name), tail.positions)
                for event_id, version in tail.event_ids.items():
                    self._put(Family.INDEX, event_id_key(tail.id, event_id), NUMBER.pack(version))
                    # Each is the same whenever it is written, so a batch may end between them.
                    self._end_of_item(0)
                self._end_of_item(8 * len(tail.positions))

    def _write_names(self, kind: bytes, names: Mapping[str, "array[int]"]) -> None:
        for chunk in _chunks(names, _LOOKUPS):
            heads = self._read_heads(kind, chunk)
            for name, head in zip(chunk, heads, strict=True):
                self._write_positions(kind, name, head, names[name])
                self._end_of_item(8 * len(names[name]))

    def _read_heads(self, kind: bytes, names: Sequence[str]) -> list[IndexHead | None]:
        entries = self._store.get_many(Family.INDEX, [head_key(kind, name) for name in names])
        return [None if entry is None else parse_head(entry) for entry in entries]

    def _write_positions(
        self, kind: bytes, name: str, head: IndexHead | None, positions: "array[int]"
    ) -> None:
        if head is None:
            identity = self._frozen.tag_ids[name] if kind == TAG else positions[0]
            head = IndexHead(identity, 0, 0, array("Q"))
        elif head.last_position >= positions[0]:
            # An attempt before this one came as far as here.
            positions = positions[bisect_right(positions, head.last_position) :]
            if not positions:
                return
        version = head.version + len(positions)
        tail = head.tail + positions
        if len(tail) > TAIL_COUNT_MAX:
            first = head.version - len(head.tail) + 1
            for start in range(0, len(tail), POSTING_COUNT_MAX):
                posting = tail[start : start + POSTING_COUNT_MAX]
                key = posting_key(kind, head.id, first + start if kind == STREAM else posting[0])
                self._put(Family.INDEX, key, pack_positions(posting))
            tail = array("Q")
        value = head_value(head.id, version, positions[-1], tail)
        self._put(Family.INDEX, head_key(kind, name), value)

    # Transactions.

    def _write_transactions(self) -> None:
        for record in self._frozen.commits:
            self._put(Family.TRANSACTIONS, record.transaction, NUMBER.pack(record.commit))
            self._end_of_item(0)
        for transaction, time in self._frozen.aborted.items():
            self._put(Family.TRANSACTIONS, transaction, aborted_value(time))
            self._put(Family.INDEX, aborted_key(time, transaction), b"")
            self._end_of_item(0)


def _versions_before(
    version: Version | None, stored: int, entry: bytes | None
) -> Iterator[tuple[int, bytes]]:
    """Commit and HISTORY value of the versions under a key's newest, the newest of them first.

    They are those of the memtable above the stored one, then the stored one.
    """
    while version is not None and version[0] > stored:
        yield version[0], history_value(version[1])
        version = version[2]
    if entry is not None:
        yield stored, latest_history_value(entry)


def _in_order(keys: Iterable[bytes]) -> Iterator[bytes]:
    """The keys sorted: neighbours are cheaper to look up and to insert, by half.

    In runs that are merged, because one sort of them all would hold the interpreter for long.
    """
    return heapq.merge(*(sorted(run) for run in _chunks(keys, _RUN_KEYS)))


def _chunks(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, count)):
        yield chunk
