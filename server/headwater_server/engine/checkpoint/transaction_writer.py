"""The part of a checkpoint that writes the ids of transactions.

An id that is made of the time stands in one entry with the others of its 16 ms. They are gathered
over all commits first, so that each such entry is looked up and written once.
"""

from typing import Final

from headwater_server.engine.checkpoint.sorting import chunks
from headwater_server.engine.checkpoint.store_batches import StoreBatches
from headwater_server.engine.format.index_keys import (
    HEAD_SIZE,
    ID_BUCKET_ENTRY_SIZE,
    ID_BUCKET_IDS_MAX,
    IDS_END,
    NUMBER,
    aborted_key,
    aborted_value,
    id_bucket_key,
)
from headwater_server.engine.pacing import YieldGil
from headwater_server.engine.state.memtable import MemTable
from headwater_server.storage.store.interface import Family, StateStore

_RECORDS: Final = 256
"""Commits that are gathered before others may have the interpreter."""

_ASKED_MAX: Final = 16
"""Ids of several entries that are asked one by one where they belong."""

_LOOKUPS: Final = 8
"""Entries of 24 KiB at most that are looked up in one call, and written in one batch."""

_ID_SIZE: Final = 16
_NUMBER_SIZE: Final = NUMBER.size


class TransactionWriter:
    """Writes the transactions of a memtable, those that committed and those that were aborted.

    Args:
        heads: `version_heads` of all its commits.
    """

    def __init__(
        self,
        frozen: MemTable,
        store: StateStore,
        batches: StoreBatches,
        heads: bytes,
        yield_gil: YieldGil,
    ) -> None:
        self._frozen = frozen
        self._store = store
        self._batches = batches
        self._heads = heads
        self._yield_gil = yield_gil

    def write(self) -> None:
        """Write them all."""
        buckets: dict[bytes, list[bytes]] = {}
        commits = self._frozen.commits
        for start in range(0, len(commits), _RECORDS):
            ids = [record.transaction for record in commits[start : start + _RECORDS]]
            self._gather(ids, HEAD_SIZE * start, buckets)
            self._yield_gil()
        for entry_keys in chunks(buckets, _LOOKUPS):
            entries = self._store.get_many(Family.TRANSACTIONS, entry_keys)
            for entry_key, entry in zip(entry_keys, entries, strict=True):
                self._put_in_bucket(entry_key, entry or b"", buckets[entry_key])
            self._batches.write()
        for transaction, time in self._frozen.aborted.items():
            self._batches.put(Family.TRANSACTIONS, transaction, aborted_value(time))
            self._batches.put(Family.INDEX, aborted_key(time, transaction), b"")
            self._batches.end_item(0)
        self._batches.write()

    def _gather(self, ids: list[bytes], at: int, buckets: dict[bytes, list[bytes]]) -> None:
        """Add ids with their commits, whose heads begin at *at*, to those of the same 16 ms."""
        heads = self._heads
        lowest, highest = min(ids), max(ids)
        if highest < IDS_END and id_bucket_key(lowest) == id_bucket_key(highest):
            # All of them: it is no use to ask each.
            values = buckets.setdefault(id_bucket_key(lowest), [])
            for transaction in ids:
                values.append(transaction + heads[at : at + _NUMBER_SIZE])
                at += HEAD_SIZE
            return
        if len(ids) > _ASKED_MAX:
            # Ids come in the order of time, nearly, so that one half or both are of one entry.
            middle = len(ids) // 2
            self._gather(ids[:middle], at, buckets)
            self._gather(ids[middle:], at + HEAD_SIZE * middle, buckets)
            return
        for transaction in ids:
            number = heads[at : at + _NUMBER_SIZE]
            at += HEAD_SIZE
            if transaction < IDS_END:
                entry_key = id_bucket_key(transaction)
                buckets.setdefault(entry_key, []).append(transaction + number)
            else:
                self._batches.put(Family.TRANSACTIONS, transaction, number)
                self._batches.end_item(0)

    def _put_in_bucket(self, entry_key: bytes, entry: bytes, values: list[bytes]) -> None:
        """Put transactions into the entry that they share, as far as they go in."""
        if entry:
            # Some may be there, from an attempt before this one.
            size = ID_BUCKET_ENTRY_SIZE
            known = {entry[at : at + size] for at in range(0, len(entry), size)}
            values = [value for value in values if value not in known]
        room = ID_BUCKET_IDS_MAX - len(entry) // ID_BUCKET_ENTRY_SIZE
        entry = b"".join([entry, *values[:room]])
        self._batches.put(Family.TRANSACTIONS, entry_key, entry)
        self._batches.end_item(len(entry))
        for value in values[room:]:
            self._batches.put(Family.TRANSACTIONS, value[:_ID_SIZE], value[_ID_SIZE:])
            self._batches.end_item(0)
