"""The state store as the engine sees it: sorted keys in a few families, written in batches.

    LATEST        the newest version of each key        rules of their keys and values: the engine
    HISTORY       older versions
    CHANGES       what each commit replaced
    INDEX         streams, categories, types, event ids, and what was applied
    TRANSACTIONS  transaction ids

What it promises, and what a test can rely on:

- `write` is whole over all families: after it, every reader sees all of a batch; before it, none.
- After a crash, the store holds every batch up to some point at or after the last `flush`, and
  nothing of those behind that point. Never a part of a batch, never one without those before it.
- A scan shows the store as it was when `scan` was called, whatever is written meanwhile.
- Bytes that the disk has changed are never given back: DamagedFile is raised instead, also in
  the middle of a scan. The end of a scan is the end of the data.

Reads may run in any thread, beside one writer. `reopen` and `close` need the store to themselves.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol


class Family(bytes, Enum):
    """A space of keys of its own. The value is the byte that its keys begin with when stored."""

    LATEST = b"\x01"
    HISTORY = b"\x02"
    CHANGES = b"\x03"
    INDEX = b"\x04"
    TRANSACTIONS = b"\x05"

    # bytes and Enum both have one; a family is looked up by what it is stored as.
    __hash__ = bytes.__hash__


FAMILY_END: Final = {family: bytes([family[0] + 1]) for family in Family}
"""A key above every key of a family, in its stored form."""

PUT: Final = 0
DELETE: Final = 1
DELETE_RANGE: Final = 2


class WriteBatch:
    """Writes that happen together or not at all, in the order in which they were added.

    Nearly all are puts, in hundreds, so they are lists that a store can go through as they stand.

    Attributes:
        keys: stored keys, each beginning with its family's byte; of a range, where it starts.
        values: what each of them is set to; b"" for one that is removed; where a range ends.
        others: what is no put, by its place in the lists, in order: DELETE or DELETE_RANGE.
    """

    __slots__ = ("keys", "others", "values")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.others: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Set *key* to *value*."""
        self.keys.append(family + key)
        self.values.append(value)

    def delete(self, family: Family, key: bytes) -> None:
        """Remove *key*; nothing happens if it is not there."""
        self.others[len(self.keys)] = DELETE
        self.put(family, key, b"")

    def delete_range(self, family: Family, start: bytes, end: bytes | None) -> None:
        """Remove all keys from *start* up to *end*, which stays; None is the family's end."""
        stored_end = FAMILY_END[family] if end is None else family + end
        if family + start < stored_end:
            self.others[len(self.keys)] = DELETE_RANGE
            self.put(family, start, stored_end)

    def copy(self) -> "WriteBatch":
        """The same writes, to which nothing is added any more."""
        copy = WriteBatch()
        copy.keys += self.keys
        copy.values += self.values
        copy.others.update(self.others)
        return copy

    def clear(self) -> None:
        """Begin anew, with the same lists."""
        self.keys.clear()
        self.values.clear()
        self.others.clear()


class Page(NamedTuple):
    """Neighbouring keys of a family with their values, and whether the range may go on."""

    keys: list[bytes]
    values: list[bytes]
    more: bool


class StateStore(Protocol):
    """Sorted keys in families. See the module's docstring for what can be relied on.

    Every method that touches the disk may raise DamagedFile, with `file` and `offset` in its
    details as far as they are known, or OSError when the disk fails.
    """

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value of *key*, or None."""
        ...

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of many keys, in the order of the keys. Sorted keys are read faster."""
        ...

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from *start* up to *end*, which is not part of it; None: to the end.

        *reverse* gives the same items, the last first. The items are those of the moment of
        the call. Drop the iterator when it is no longer needed: it holds on to old data.
        """
        ...

    def page(
        self,
        family: Family,
        start: bytes,
        end: bytes | None,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> Page:
        """The first items of what `scan` would give, as lists: faster, and nothing stays open.

        It ends with the item by which it has *count_max* items, or *size_max* bytes of values.
        """
        ...

    def write(self, batch: WriteBatch) -> None:
        """Write all of *batch*, so that it is visible at once. Not durable before `flush`.

        Raises:
            DiskFull: nothing of the batch was written; see `reopen`.
        """
        ...

    def flush(self) -> None:
        """Wait until every batch written before is on the disk.

        Raises:
            DiskFull: it is not, or not for certain; see `reopen`.
        """
        ...

    def compact(self, family: Family, start: bytes, end: bytes) -> None:
        """Take the bytes of what was overwritten or removed in a range off the disk.

        It is a wish: a store may keep some of them, where an open scan holds on to them say.
        """
        ...

    def checkpoint_to(self, path: str) -> None:
        """Make a store of its own at *path*, which must not exist, with all that was flushed.

        It holds what this one holds now, if all of that was flushed, and costs next to no room.
        It is not durable before its files and the directory are synced.

        Raises:
            DiskFull, OSError: it was not made, or in part. This store is as before.
        """
        ...

    def reopen(self) -> None:
        """Begin again with what is on the disk: the one way on after DiskFull.

        Until then reads go on and writes raise DiskFull. Batches behind the last flush may be
        lost, as in a crash.

        Raises:
            DiskFull: there is still no room, and the store is closed; try again later.
        """
        ...

    def sizes(self) -> dict[str, int]:
        """Figures for operators: keys (an estimate), and bytes on the disk and in memory."""
        ...

    def verify(self) -> int:
        """Read everything and check it. Returns how many keys there are."""
        ...

    def close(self) -> None:
        """Let go of everything. What was not flushed may be lost. Open scans end."""
        ...
