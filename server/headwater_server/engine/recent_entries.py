"""What the last checkpoints put into LATEST, so that the next one need not look it up.

A checkpoint needs the stored version of every key that it writes, to put it into HISTORY. To find
one takes the store three times as long as to take in a new one, and keys that are written often
are in one checkpoint after the other.

Only values that stand are here: a deletion is taken out of LATEST by garbage collection. What is
here is in the store, or in what the running checkpoint has written; once one of its batches may be
lost, all is forgotten.
"""

from typing import Final

SIZE_MAX: Final = 8 * 1024 * 1024
"""Bytes of all entries, about, as Python holds them."""

_ENTRY_SIZE_MAX: Final = 512
"""Bytes of an entry that is kept. A larger one takes the room of many."""

_OVERHEAD: Final = 180
"""Bytes that an entry takes beside those of key and value: two headers, a slot of the dict."""


class RecentEntries:
    """Entries of LATEST by key, a bounded number of bytes.

    Attributes:
        found: the entries. Whoever looks up thousands asks it itself.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self.found: dict[bytes, bytes] = {}
        self._size_max = size_max
        self._size = 0

    def put(self, key: bytes, entry: bytes, before: bytes | None) -> None:
        """Keep what was put for a key, if there is room; *before* is what `found` has of it."""
        size = len(entry)
        if before is not None:
            self._size -= len(key) + len(before) + _OVERHEAD
        if size <= _ENTRY_SIZE_MAX and self._size < self._size_max:
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
