"""A cache of entries of LATEST: the newest stored version of keys that were read or written lately.

Two ask it, because to find an entry in the store costs each of them most of its time:

    a read            of a key whose newest version is in the files
    a checkpoint      the stored version of every key that it writes goes into HISTORY; keys that
                      are written often are in one checkpoint after the other

An entry here is the one that the store has. A deletion is never here, since garbage collection
takes it out of LATEST.

A cache has no lock, because only one thread uses it at a time:

    frozen memtable       none        there is one             none
    the reading thread    cache A     cache B, empty at first  cache A
    the checkpoint        -           cache A                  -

The reading thread hands its cache over when it freezes the memtable, before the checkpoint's thread
begins, and takes it back when the checkpoint is in force. What it read meanwhile may be older than
what the checkpoint has written, so cache B is dropped. If a checkpoint fails, both are: what it
wrote may be lost. To use one cache in both threads would need a lock around the look-up in the
store: else a reader could put an old entry over the checkpoint's newer one.
"""

from typing import Final

SIZE_MAX: Final = 8 * 1024 * 1024
"""Bytes of all entries, about, as Python holds them."""

ENTRY_SIZE_MAX: Final = 512
"""Bytes of an entry that is kept. A larger one takes the room of many, and costs more to copy than
to find."""

_OVERHEAD: Final = 180
"""Bytes that an entry takes beside those of key and value: two headers, a slot of the dict."""


class LatestCache:
    """Entries of LATEST by key, a bounded number of bytes.

    Attributes:
        found: the entries. Whoever looks up thousands asks it itself.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self.found: dict[bytes, bytes] = {}
        self._size_max = size_max
        self._size = 0

    def add(self, key: bytes, entry: bytes) -> None:
        """Keep an entry that was read, which is not here. A full cache begins anew with it."""
        size = len(entry)
        if size > ENTRY_SIZE_MAX:
            return
        if self._size >= self._size_max:
            # To drop the least recently used instead would cost an order of use at each read.
            self.clear()
        self._size += len(key) + size + _OVERHEAD
        self.found[key] = entry

    def put(self, key: bytes, entry: bytes, before: bytes | None) -> None:
        """Keep what was put for a key, if there is room; *before* is what `found` has of it."""
        size = len(entry)
        if before is not None:
            self._size -= len(key) + len(before) + _OVERHEAD
        if size <= ENTRY_SIZE_MAX and self._size < self._size_max:
            self._size += len(key) + size + _OVERHEAD
            self.found[key] = entry
        elif before is not None:
            del self.found[key]

    def forget(self, key: bytes) -> None:
        """Let go of a key that is no longer what was put."""
        before = self.found.pop(key, None)
        if before is not None:
            self._size -= len(key) + len(before) + _OVERHEAD

    def make_room(self) -> None:
        """Begin anew if it is full: what is here may not be what is written now."""
        if self._size >= self._size_max:
            self.clear()

    def clear(self) -> None:
        """Let go of all."""
        self.found.clear()
        self._size = 0
