"""The part of a checkpoint that writes a memtable to the state store.

This module decides the order, and writes the index of streams, categories, types and tags.
`VersionWriter` writes keys and changes, `TransactionWriter` writes transaction ids, both to the
same batches.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headwater_server.engine.checkpoint.event_id_writer import EventIdWriter, FirstEvent
from headwater_server.engine.checkpoint.sorting import chunks
from headwater_server.engine.checkpoint.store_batches import BATCH_ENTRIES_MAX, StoreBatches
from headwater_server.engine.checkpoint.transaction_writer import TransactionWriter
from headwater_server.engine.checkpoint.version_writer import VersionWriter
from headwater_server.engine.format.index_keys import (
    CATEGORY,
    META_APPLIED,
    META_CLOCK,
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
    applied_value,
    clock_value,
    event_id_key,
    head_key,
    head_value,
    pack_positions,
    parse_applied,
    parse_head,
    parse_unfinished,
    posting_key,
    unfinished_value,
    version_heads,
)
from headwater_server.engine.pacing import YieldGil, unpaced
from headwater_server.engine.state.latest_cache import LatestCache
from headwater_server.engine.state.memtable import MemTable
from headwater_server.storage.store.interface import Family, StateStore

_LOOKUPS: Final = 64
"""Heads that are looked up in one call and written before the GIL is yielded."""

_COMMITS: Final = 1024
"""Commits whose numbers are packed in one call."""


class StateWriter:
    """Writes a memtable to the state store, in small batches.

    Attributes:
        keys: keys whose newest version was written.
        versions: older versions that were put into HISTORY.
        changes: how many changes garbage collection will examine.
    """

    def __init__(
        self,
        frozen: MemTable,
        store: StateStore,
        *,
        horizon: int,
        views: Sequence[int],
        log_index: int,
        latest: LatestCache | None = None,
        yield_gil: YieldGil = unpaced,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
    ) -> None:
        self._frozen = frozen
        self._store = store
        self._horizon = horizon
        self._views = views
        self._log_index = log_index
        self._latest = latest or LatestCache(0)
        self._yield_gil = yield_gil
        self._batches = StoreBatches(store, yield_gil, batch_entries_max)
        self._put = self._batches.put
        self.keys = 0
        self.versions = 0
        self.changes = 0

    def write(self) -> Applied:
        """Write the whole memtable, and the new applied commit last."""
        frozen, batches = self._frozen, self._batches
        unfinished, log_index = parse_unfinished(self._store.get(Family.INDEX, META_UNFINISHED))
        before = parse_applied(self._store.get(Family.INDEX, META_APPLIED))
        last = frozen.last_commit
        # Write the horizon first: versions below it are left out from now on.
        self._put(Family.INDEX, META_HORIZON, NUMBER.pack(self._horizon))
        mark = unfinished_value(max(unfinished, last), max(log_index, self._log_index))
        self._put(Family.INDEX, META_UNFINISHED, mark)
        heads = self._version_heads()
        self._write_versions(heads, interrupted=unfinished > 0)
        self.write_index(interrupted=unfinished > 0)
        EventIdWriter(frozen, self._store, batches, self._yield_gil).write()
        TransactionWriter(frozen, self._store, batches, heads, self._yield_gil).write()
        time = frozen.commits[-1].time if frozen.commits else before.time
        applied = Applied(last, frozen.last_position, time, self._log_index)
        self._put(Family.INDEX, META_APPLIED, applied_value(applied))
        self._put(Family.INDEX, META_CLOCK, clock_value(frozen.time))
        # An attempt before a crash may have gone further; then a later checkpoint removes its mark.
        if unfinished <= last:
            batches.delete(Family.INDEX, META_UNFINISHED)
        batches.write()
        return applied

    def _version_heads(self) -> bytes:
        parts: list[bytes] = []
        end = self._frozen.last_commit + 1
        for first in range(self._frozen.base_commit + 1, end, _COMMITS):
            parts.append(version_heads(first, min(first + _COMMITS, end) - 1))
            self._yield_gil()
        return b"".join(parts)

    def _write_versions(self, heads: bytes, *, interrupted: bool) -> None:
        writer = VersionWriter(
            self._frozen,
            self._store,
            self._batches,
            heads,
            self._latest,
            horizon=self._horizon,
            views=self._views,
            yield_gil=self._yield_gil,
        )
        writer.write_keys()
        writer.write_changes(interrupted=interrupted)
        self.keys, self.versions, self.changes = writer.keys, writer.versions, writer.changes

    # Streams, categories, types, tags.

    def write_index(self, *, interrupted: bool) -> None:
        """Write the index entries; *interrupted*: an earlier attempt may have written some."""
        self._write_streams(interrupted=interrupted)
        self._write_names(CATEGORY, self._frozen.categories)
        self._write_names(TYPE, self._frozen.types)
        self._write_names(TAG, self._frozen.tags)
        self._batches.write()

    def write_ids(self, derived: Iterable[FirstEvent]) -> None:
        """Write the index of event ids, for a repair; *derived*: where transactions begin."""
        writer = EventIdWriter(self._frozen, self._store, self._batches, self._yield_gil)
        writer.write_given()
        writer.write_derived(derived)
        self._batches.write()

    def _write_streams(self, *, interrupted: bool) -> None:
        for names in chunks(self._frozen.streams, _LOOKUPS):
            # A stream that begins in this memtable has no head yet, unless an earlier attempt
            # wrote one.
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
                    # Every attempt writes the same entries, so a batch may end between them.
                    self._batches.end_item(0)
                self._batches.end_item(8 * len(tail.positions))

    def _write_names(self, kind: bytes, names: Mapping[str, "array[int]"]) -> None:
        for chunk in chunks(names, _LOOKUPS):
            heads = self._read_heads(kind, chunk)
            for name, head in zip(chunk, heads, strict=True):
                self._write_positions(kind, name, head, names[name])
                self._batches.end_item(8 * len(names[name]))

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
            # An earlier attempt has written some of these positions.
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
