"""The part of a checkpoint that writes the index of event ids; see format/event_ids.py.

An event whose id was not given costs nothing: its transaction has 24 bytes in an entry that it
shares with others. An id that was given costs an entry.
"""

from bisect import insort
from collections.abc import Iterable
from typing import Final

from headwater_server.engine.checkpoint.sorting import chunks
from headwater_server.engine.checkpoint.store_batches import StoreBatches
from headwater_server.engine.format.event_ids import (
    BUCKET_MAX,
    ENTRY_SIZE,
    FIRST_EVENT,
    META_EVENT_IDS,
    Indexed,
    bucket_key,
    given_key,
    given_value,
    indexed_value,
    parse_given,
    parse_indexed,
)
from headwater_server.engine.format.index_keys import NUMBER, id_bucket_end
from headwater_server.engine.pacing import YieldGil
from headwater_server.engine.state.memtable import MemTable
from headwater_server.storage.store.interface import Family, StateStore

_COMMITS: Final = 256
"""Commits that are grouped before the GIL is yielded."""

_LOOKUPS: Final = 64
"""Entries of given ids that are looked up in one call."""

_BUCKETS: Final = 8
"""Entries of at most 24 KiB that are read in one call and written in one batch."""

FirstEvent = tuple[bytes, int]
"""A transaction, and the position of its first event."""


class EventIdWriter:
    """Writes the event ids of a memtable."""

    def __init__(
        self, frozen: MemTable, store: StateStore, batches: StoreBatches, yield_gil: YieldGil
    ) -> None:
        self._frozen = frozen
        self._store = store
        self._batches = batches
        self._yield_gil = yield_gil

    def write(self) -> None:
        """Write all ids, and how far the index goes."""
        self.write_given()
        self.write_derived(self._first_events())
        frozen = self._frozen
        before = parse_indexed(self._store.get(Family.INDEX, META_EVENT_IDS))
        after = frozen.base_position
        # An older version may have written events since. Another attempt may have gone further.
        if before is not None and before.upto >= after:
            after = before.after
        last = max(frozen.last_position, before.upto if before is not None else 0)
        self._batches.put(Family.INDEX, META_EVENT_IDS, indexed_value(Indexed(after, last)))

    def _first_events(self) -> Iterable[FirstEvent]:
        commits = self._frozen.commits
        for start in range(0, len(commits), _COMMITS):
            for planned in commits[start : start + _COMMITS]:
                if planned.event_count:
                    yield planned.transaction, planned.first_position
            self._yield_gil()

    def write_given(self) -> None:
        """Write the ids that clients gave."""
        found: dict[bytes, list[int]] = {}
        for tail in self._frozen.streams.values():
            for event_id, version in tail.event_ids.items():
                position = tail.positions[version - tail.base_version - 1]
                found.setdefault(event_id, []).append(position)
        for ids in chunks(found, _LOOKUPS):
            entries = self._store.get_many(Family.INDEX, [given_key(each) for each in ids])
            for event_id, entry in zip(ids, entries, strict=True):
                positions = parse_given(entry)
                for position in sorted(found[event_id]):
                    # An earlier attempt may have written it.
                    if position not in positions:
                        insort(positions, position)
                self._put(given_key(event_id), given_value(positions))
            self._yield_gil()

    def write_derived(self, found: Iterable[FirstEvent]) -> None:
        """Write where the events of transactions begin."""
        buckets: dict[bytes, list[bytes]] = {}
        first_id, last_id = b"\xff", b""
        bucket: list[bytes] = []
        pack = NUMBER.pack
        for transaction, position in found:
            # Ids are almost in the order of time, so the next one is in the same entry.
            if not first_id <= transaction <= last_id:
                key = bucket_key(transaction)
                if len(key) == 1 + 16:
                    # It shares no entry, so there is nothing to look up.
                    self._put(key, pack(position))
                    continue
                first_id, last_id = key[1:], id_bucket_end(key[1:])
                bucket = buckets.setdefault(key, [])
            bucket.append(transaction + pack(position))
        for keys in chunks(buckets, _BUCKETS):
            entries = self._store.get_many(Family.INDEX, keys)
            for key, entry in zip(keys, entries, strict=True):
                self._put_in_bucket(key, entry or b"", buckets[key])
            self._batches.write()

    def _put_in_bucket(self, key: bytes, entry: bytes, members: list[bytes]) -> None:
        if entry:
            known = {entry[at : at + ENTRY_SIZE] for at in range(0, len(entry), ENTRY_SIZE)}
            members = [member for member in members if member not in known]
        room = BUCKET_MAX - len(entry) // ENTRY_SIZE
        self._put(key, b"".join([entry, *members[:room]]))
        for member in members[room:]:
            self._put(FIRST_EVENT + member[:16], member[16:])

    def _put(self, key: bytes, value: bytes) -> None:
        self._batches.put(Family.INDEX, key, value)
        # Every attempt writes the same entries, so a batch may end between them.
        self._batches.end_item(len(value))
