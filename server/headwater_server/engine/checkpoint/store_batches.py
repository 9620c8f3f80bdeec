"""Small batches that a checkpoint writes to the state store.

The store holds the GIL while it writes a batch, and a crash may come between any two. So a batch
ends after about a hundred entries, but only after a whole item, for example all entries of a key.

Entries go to the store in the order of their keys where possible. The store places an entry that
follows the previous one with four comparisons, and any other with twenty or more. Code that writes
to two families alternately passes the entries of the second as *later*.
"""

from typing import Final

from headwater_server.engine.pacing import YieldGil
from headwater_server.storage.store.interface import Family, StateStore, WriteBatch

BATCH_ENTRIES_MAX: Final = 128
"""Entries after which a batch is written. Writing it holds the GIL for 0.2 ms."""

BATCH_SIZE_MAX: Final = 2 * 1024 * 1024
"""Bytes, not counting keys, after which a batch is written: values may be large."""


class StoreBatches:
    """Gathers entries and writes them.

    Attributes:
        keys, values: entries of the current batch in their stored form. Code with thousands of
            entries appends to both directly.
        later_keys, later_values: likewise, for entries that come after these in the batch.
    """

    def __init__(self, store: StateStore, yield_gil: YieldGil, entries_max: int) -> None:
        self._store = store
        self._yield_gil = yield_gil
        self._entries_max = entries_max
        self._batch = WriteBatch()
        self._size = 0
        self.keys: list[bytes] = self._batch.keys
        self.values: list[bytes] = self._batch.values
        self.later_keys: list[bytes] = []
        self.later_values: list[bytes] = []

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Set *key* to *value*."""
        self.keys.append(family + key)
        self.values.append(value)

    def delete(self, family: Family, key: bytes) -> None:
        """Remove *key*."""
        self._batch.delete(family, key)

    def delete_range(self, family: Family, start: bytes, end: bytes | None) -> None:
        """Remove all keys from *start* up to *end*."""
        self._batch.delete_range(family, start, end)

    def end_item(self, size: int) -> None:
        """Mark the end of an item; a batch may only end here.

        *size* is the approximate size of the item's values in bytes.
        """
        self._size += size
        count = len(self.keys) + len(self.later_keys)
        if count >= self._entries_max or self._size >= BATCH_SIZE_MAX:
            self.write()

    def write(self) -> None:
        """Write the batch and begin a new one."""
        self.keys += self.later_keys
        self.values += self.later_values
        self._store.write(self._batch)
        self._batch.clear()
        self.later_keys.clear()
        self.later_values.clear()
        self._size = 0
        self._yield_gil()
