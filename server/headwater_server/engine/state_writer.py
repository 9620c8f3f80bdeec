"""The part of a checkpoint that puts a memtable into the state store.

A key's chain comes down like this (horizon 6, one read view at 2):

    commit      1     3     4     7     9          written
    chain             a-----b-----c-----d          LATEST 9
    stored      z                      HISTORY z until 3 (the view), b until 7 (7 > 6), c until 9

A version lives from its commit to that of the next one. It is needed by the history window if
the next one is above the horizon, and by a view that lies in between. One that nobody needs any
more is not written at all.

The changes are told of behind the keys, packed, in the order of commits. If a crash comes between,
the next attempt finds in LATEST and HISTORY what this one did.

Entries go to the store in the order of their keys as far as they can: it finds the place of one
that follows the entry before with four comparisons, and of any other with twenty and more.
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
    CHANGE_EXISTS,
    CHANGE_REPLACED,
    IDS_END,
    META_APPLIED,
    META_HORIZON,
    META_UNFINISHED,
    NUMBER,
    POSTING_COUNT_MAX,
    STREAM,
    TAG,
    TAIL_COUNT_MAX,
    TOGETHER_MAX,
    TOGETHER_SIZE,
    TYPE,
    Applied,
    Change,
    IndexHead,
    aborted_key,
    aborted_value,
    applied_value,
    changes_entry,
    changes_key,
    event_id_key,
    head_key,
    head_value,
    history_key,
    latest_commit,
    latest_value,
    pack_positions,
    parse_applied,
    parse_head,
    parse_unfinished,
    posting_key,
    together_key,
    together_value,
    unfinished_value,
)
from headwater_server.engine.memtable import MemTable, Version
from headwater_server.engine.pacing import GiveWay, on_and_on
from headwater_server.storage.commit_log import CommitRecord
from headwater_server.storage.state_store import Family, StateStore, WriteBatch

BATCH_ENTRIES_MAX: Final = 128
"""Entries after which a batch is written. The store holds the interpreter meanwhile: 0.2 ms."""

BATCH_SIZE_MAX: Final = 2 * 1024 * 1024
"""Bytes, not counting keys, after which a batch is written: values may be large."""

_LOOKUPS: Final = 64
"""Keys that are looked up in one call, and written before others may have the interpreter."""

_RECORDS: Final = 256
"""Commits whose transactions are written in one go."""

_RUN_KEYS: Final = 4096
"""Keys that are sorted in one call, which holds the interpreter for about 2 ms."""

CHANGES_MAX: Final = 512
"""Changes in one entry. Garbage collection reads the last entry of a run once more in the next."""

CHANGES_SIZE_MAX: Final = 64 * 1024
"""Bytes of keys after which an entry of changes ends: keys may be large."""

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
        give_way: GiveWay = on_and_on,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
    ) -> None:
        self._give_way = give_way
        self._frozen = frozen
        self._store = store
        self._horizon = horizon
        self._views = views
        self._log_index = log_index
        self._batch_entries_max = batch_entries_max
        self._batch = WriteBatch()
        self._put = self._batch.put
        self._older = WriteBatch()
        self._changes: dict[int, list[Change]] = {}
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
        self._write_changes(interrupted=unfinished > 0)
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
        count = len(self._batch.operations) + len(self._older.operations)
        if count >= self._batch_entries_max or self._size >= BATCH_SIZE_MAX:
            self._write_batch()

    def _write_batch(self) -> None:
        self._batch.operations += self._older.operations
        self._store.write(self._batch)
        self._batch.operations.clear()
        self._older.operations.clear()
        self._size = 0
        self._give_way()

    # Keys.

    def _write_keys(self) -> None:
        for keys in _chunks(_in_order(self._frozen.chains), _LOOKUPS):
            stored = self._store.get_many(Family.LATEST, keys)
            for key, entry in zip(keys, stored, strict=True):
                self._end_of_item(self._write_key(key, entry))
            self._give_way()

    def _write_key(self, key: bytes, entry: bytes | None) -> int:
        """Put all entries of a key; returns their size in bytes, about."""
        commit, value, older = self._frozen.chains[key]
        stored = 0 if entry is None else latest_commit(entry)
        if stored > self._frozen.base_commit:
            self._note_again(key, stored)
        if commit <= stored:
            # An attempt before this one has written it.
            return 0
        horizon, views = self._horizon, self._views
        entries = self._older.operations
        first = len(entries)
        looked_at = False
        newer, exists = commit, value is not None
        while older is not None and older[0] > stored:
            replaced, content, older = older
            if is_needed(replaced, newer, horizon, views):
                self._keep(key, latest_value(replaced, content), newer, exists=exists)
                looked_at |= newer == commit
            newer, exists = replaced, content is not None
        if entry is None:
            if newer > horizon:
                self._note(newer, key, exists=exists, replaced=False)
        elif is_needed(stored, newer, horizon, views):
            self._keep(key, entry, newer, exists=exists)
            looked_at |= newer == commit
        kept = entries[first:]
        if value is None and commit <= horizon:
            if entry is None and not kept:
                # Made and deleted, and nobody can see that it ever was.
                return 0
            if not looked_at:
                # Garbage collection must see the deletion, or it would stay for good.
                self._note(commit, key, exists=False, replaced=False)
        if len(kept) > 1:
            # The oldest first, as they will stand.
            entries[first:] = kept[::-1]
        latest = latest_value(commit, value)
        self._put(Family.LATEST, key, latest)
        self.keys += 1
        self.versions += len(kept)
        return len(latest) + sum([len(content) for _, _, content in kept])

    def _keep(self, key: bytes, version: bytes, until: int, *, exists: bool) -> None:
        self._older.put(Family.HISTORY, history_key(key, until), version)
        self._note(until, key, exists=exists, replaced=True)

    # Changes.

    def _note(self, commit: int, key: bytes, *, exists: bool, replaced: bool) -> None:
        flags = (CHANGE_EXISTS if exists else 0) | (CHANGE_REPLACED if replaced else 0)
        changes = self._changes.get(commit)
        if changes is None:
            self._changes[commit] = [(commit, flags, key)]
        else:
            changes.append((commit, flags, key))
        self.changes += 1

    def _note_again(self, key: bytes, stored: int) -> None:
        """Note the changes of a key that an attempt before this one has written."""
        version: Version | None = self._frozen.chains[key]
        while version is not None:
            commit, value, version = version
            if commit <= stored:
                kept = self._store.get(Family.HISTORY, history_key(key, commit))
                self._note(commit, key, exists=value is not None, replaced=kept is not None)

    def _write_changes(self, *, interrupted: bool) -> None:
        """Write all changes; *interrupted* if an attempt before this one may have written some."""
        base = self._frozen.base_commit
        if interrupted:
            # Its entries may end elsewhere than ours. All that they tell of is told again.
            self._batch.delete_range(Family.CHANGES, changes_key(base + 1), None)
        together: list[Change] = []
        size = number = 0
        for commit in range(base + 1, self._frozen.last_commit + 1):
            for change in self._changes.pop(commit, ()):
                together.append(change)
                size += len(change[2])
                if len(together) >= CHANGES_MAX or size >= CHANGES_SIZE_MAX:
                    self._put_changes(together, number)
                    together = []
                    number += 1
                    size = 0
        if together:
            self._put_changes(together, number)
        assert not self._changes, "they are of the memtable's commits"

    def _put_changes(self, changes: list[Change], number: int) -> None:
        entry_key, entry = changes_entry(changes, number)
        self._put(Family.CHANGES, entry_key, entry)
        # A batch each: where this is compiled, the store is what lets other threads run between.
        self._write_batch()

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
        for records in _chunks(self._frozen.commits, _RECORDS):
            self._write_committed(records)
        for transaction, time in self._frozen.aborted.items():
            self._put(Family.TRANSACTIONS, transaction, aborted_value(time))
            self._put(Family.INDEX, aborted_key(time, transaction), b"")
            self._end_of_item(0)

    def _write_committed(self, records: Sequence[CommitRecord]) -> None:
        together: dict[bytes, list[bytes]] = {}
        for record in records:
            transaction = record.transaction
            if transaction < IDS_END:
                value = together_value(transaction, record.commit)
                together.setdefault(together_key(transaction), []).append(value)
            else:
                self._put(Family.TRANSACTIONS, transaction, NUMBER.pack(record.commit))
                self._end_of_item(0)
        for entry_keys in _chunks(together, _LOOKUPS):
            entries = self._store.get_many(Family.TRANSACTIONS, entry_keys)
            for entry_key, entry in zip(entry_keys, entries, strict=True):
                self._put_together(entry_key, entry or b"", together[entry_key])
        # The next ones may add to an entry, and look it up first.
        self._write_batch()

    def _put_together(self, entry_key: bytes, entry: bytes, values: list[bytes]) -> None:
        """Put transactions into the entry that they share, as far as they go in."""
        if entry:
            # Some may be there, from an attempt before this one.
            size = TOGETHER_SIZE
            known = {entry[at : at + size] for at in range(0, len(entry), size)}
            values = [value for value in values if value not in known]
        room = TOGETHER_MAX - len(entry) // TOGETHER_SIZE
        entry = b"".join([entry, *values[:room]])
        self._put(Family.TRANSACTIONS, entry_key, entry)
        self._end_of_item(len(entry))
        for value in values[room:]:
            self._put(Family.TRANSACTIONS, value[:16], value[16:])
            self._end_of_item(0)


def _in_order(keys: Iterable[bytes]) -> Iterator[bytes]:
    """The keys sorted: neighbours are cheaper to look up and to insert, by half.

    In runs that are merged, because one sort of them all would hold the interpreter for long.
    """
    return heapq.merge(*(sorted(run) for run in _chunks(keys, _RUN_KEYS)))


def _chunks(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while chunk := list(islice(rest, count)):
        yield chunk
