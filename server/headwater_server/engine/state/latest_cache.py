"""The LATEST cache: the newest stored versions of keys that were recently read or written.

Finding an entry in the store takes most of the time of its two users:

    a read            of a key whose newest version is in the files
    a checkpoint      which moves the stored version of every key that it writes into HISTORY; a
                      key that is written often is in every checkpoint

An entry here equals the store's entry. Deletions are never cached, because garbage collection
removes them from LATEST.

A cache needs no lock, because only one thread uses it at a time:

    frozen memtable       none        there is one             none
    the reading thread    cache A     cache B, empty at first  cache A
    the checkpoint        -           cache A                  -

The reading thread hands its cache over when it freezes the memtable, before the checkpoint's thread
starts, and takes it back when the checkpoint takes effect. Cache B is then dropped, because its
entries may be older than those that the checkpoint wrote. If the checkpoint fails, both caches are
dropped, because its writes may be lost. One cache for both threads would need a lock around the
look-up in the store. Otherwise a reader could overwrite the checkpoint's entry with an older one.
"""

from typing import Final

SIZE_MAX: Final = 8 * 1024 * 1024
"""Approximate bytes of all entries in memory."""

ENTRY_SIZE_MAX: Final = 512
"""Bytes of the largest entry that is cached. A larger one takes the room of many, and copying it
costs more than finding it."""

_OVERHEAD: Final = 180
"""Bytes of an entry besides key and value: two object headers and a slot of the dict."""


class LatestCache:
    """Entries of LATEST by key, bounded in bytes.

    Attributes:
        found: the entries. Code that looks up thousands accesses it directly.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self.found: dict[bytes, bytes] = {}
        self._size_max = size_max
        self._size = 0

    def add(self, key: bytes, entry: bytes) -> None:
        """Add an entry that was read and is not cached. A full cache is cleared first."""
        size = len(entry)
        if size > ENTRY_SIZE_MAX:
            return
        if self._size >= self._size_max:
            # Evicting the least recently used entry would need bookkeeping at each read.
            self.clear()
        self._size += len(key) + size + _OVERHEAD
        self.found[key] = entry

    def put(self, key: bytes, entry: bytes, before: bytes | None) -> None:
        """Cache a written entry if there is room; *before* is the key's entry in `found`."""
        size = len(entry)
        if before is not None:
            self._size -= len(key) + len(before) + _OVERHEAD
        if size <= ENTRY_SIZE_MAX and self._size < self._size_max:
            self._size += len(key) + size + _OVERHEAD
            self.found[key] = entry
        elif before is not None:
            del self.found[key]

    def forget(self, key: bytes) -> None:
        """Remove a key whose stored entry has changed."""
        before = self.found.pop(key, None)
        if before is not None:
            self._size -= len(key) + len(before) + _OVERHEAD

    def make_room(self) -> None:
        """Clear a full cache, whose entries may no longer be the keys that are written."""
        if self._size >= self._size_max:
            self.clear()

    def clear(self) -> None:
        """Remove all entries."""
        self.found.clear()
        self._size = 0
