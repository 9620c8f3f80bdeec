"""The part of a checkpoint that writes transaction ids.

Time-based ids of the same 16 ms share one entry, an id bucket. The ids of all commits are grouped
by bucket first, so that each bucket is read and written once.
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
"""Commits that are grouped before the GIL is yielded."""

_LOOKUPS: Final = 8
"""Buckets of at most 24 KiB that are read in one call and written in one batch."""

_ID_SIZE: Final = 16
_NUMBER_SIZE: Final = NUMBER.size


class TransactionWriter:
    """Writes the transactions of a memtable, both committed and aborted ones.

    Args:
        heads: `version_heads` of all commits of the memtable.
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
        """Write all transactions."""
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
        """Add ids with their commits to their buckets; the commits' heads begin at *at*."""
        heads = self._heads
        # The bucket of the last id. Ids are almost in the order of time, so the next is in it too.
        bucket_key = b""
        bucket: list[bytes] = []
        for transaction in ids:
            number = heads[at : at + _NUMBER_SIZE]
            at += HEAD_SIZE
            entry_key = id_bucket_key(transaction)
            if entry_key != bucket_key:
                if transaction >= IDS_END:
                    self._batches.put(Family.TRANSACTIONS, transaction, number)
                    self._batches.end_item(0)
                    continue
                bucket_key = entry_key
                bucket = buckets.setdefault(entry_key, [])
            bucket.append(transaction + number)

    def _put_in_bucket(self, entry_key: bytes, entry: bytes, values: list[bytes]) -> None:
        """Add transactions to a bucket; those that do not fit get entries of their own."""
        if entry:
            # An earlier attempt may have written some of them.
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
