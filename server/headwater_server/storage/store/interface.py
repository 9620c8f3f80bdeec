"""The interface of the state store: sorted keys in a few families, written in batches.

    LATEST        the newest version of each key        the engine defines their keys and values
    HISTORY       older versions
    CHANGES       what each commit replaced
    INDEX         streams, categories, types, event ids, and the last applied commit
    TRANSACTIONS  transaction ids

The store guarantees, and tests check, the following:

- `write` is atomic over all families: before it, a reader sees nothing of a batch; after it, all.
- After a crash, the store holds all batches up to some point at or after the last `flush`, and
  nothing later: never a part of a batch, and never a batch without all earlier ones.
- A scan shows the store as it was when `scan` was called, even if it is written meanwhile.
- Damaged bytes are never returned: DamagedFile is raised instead, even in the middle of a scan. A
  scan that ends has reached the end of the data.

Any thread may read while one thread writes. `reopen` and `close` need exclusive access.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol


class Family(bytes, Enum):
    """A separate key space. The value is the first byte of its stored keys."""

    LATEST = b"\x01"
    HISTORY = b"\x02"
    CHANGES = b"\x03"
    INDEX = b"\x04"
    TRANSACTIONS = b"\x05"

    # bytes and Enum both define it; a family hashes like its stored byte.
    __hash__ = bytes.__hash__


FAMILY_END: Final = {family: bytes([family[0] + 1]) for family in Family}
"""A key above every key of a family, in its stored form."""

PUT: Final = 0
DELETE: Final = 1
DELETE_RANGE: Final = 2


class WriteBatch:
    """Atomic writes, applied in the order in which they were added.

    Nearly all are puts, in hundreds, so a batch is lists that a store can iterate over directly.

    Attributes:
        keys: stored keys, each beginning with its family's byte; the start of a range.
        values: the new value of each key; b"" for a deleted key; the end of a range.
        others: DELETE or DELETE_RANGE by place in the lists, in order, for all but puts.
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
        """Remove *key*, if it exists."""
        self.others[len(self.keys)] = DELETE
        self.put(family, key, b"")

    def delete_range(self, family: Family, start: bytes, end: bytes | None) -> None:
        """Remove all keys from *start* up to *end*, exclusive; None is the family's end."""
        stored_end = FAMILY_END[family] if end is None else family + end
        if family + start < stored_end:
            self.others[len(self.keys)] = DELETE_RANGE
            self.put(family, start, stored_end)

    def copy(self) -> "WriteBatch":
        """A copy of the batch, independent of later additions."""
        copy = WriteBatch()
        copy.keys += self.keys
        copy.values += self.values
        copy.others.update(self.others)
        return copy

    def clear(self) -> None:
        """Empty the batch, and reuse its lists."""
        self.keys.clear()
        self.values.clear()
        self.others.clear()


class Page(NamedTuple):
    """Consecutive keys of a family with their values, and whether the range may have more."""

    keys: list[bytes]
    values: list[bytes]
    more: bool


class StateStore(Protocol):
    """Sorted keys in families. See the module's docstring for the guarantees.

    Every method that touches the disk may raise DamagedFile, with `file` and `offset` in its
    details as far as they are known, or OSError when the disk fails.
    """

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value of *key*, or None."""
        ...

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of many keys, in the order of the keys. Sorted keys are faster."""
        ...

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values from *start* up to *end*, exclusive; None is the family's end.

        *reverse* yields the same items, the last one first. The scan shows the store as of the
        call. Drop the iterator when it is no longer needed: it keeps old data alive.
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
        """The first items of a `scan`, as lists: faster, and nothing stays open.

        It ends with the item that reaches *count_max* items or *size_max* bytes of values.
        """
        ...

    def write(self, batch: WriteBatch) -> None:
        """Write *batch* and make it visible, atomically. Not durable before `flush`.

        Raises:
            DiskFull: nothing of the batch was written; see `reopen`.
        """
        ...

    def flush(self) -> None:
        """Wait until every earlier batch is on the disk.

        Raises:
            DiskFull: some batches may not be on the disk; see `reopen`.
        """
        ...

    def compact(self, family: Family, start: bytes, end: bytes) -> None:
        """Remove overwritten and deleted data of a range from the disk.

        This is a hint: a store may keep some of it, for example while a scan is open.
        """
        ...

    def checkpoint_to(self, path: str) -> None:
        """Make a separate store at *path*, which must not exist, with all flushed data.

        If everything was flushed, it equals this store. It takes almost no space. It is not
        durable before its files and the directory are synced.

        Raises:
            DiskFull, OSError: it was not made, or only in part. This store is unchanged.
        """
        ...

    def reopen(self) -> None:
        """Open the store again from the disk: the only way to continue after DiskFull.

        Before that, reads work and writes raise DiskFull. Batches after the last flush may be
        lost, as in a crash.

        Raises:
            DiskFull: there is still no room, and the store is closed; try again later.
        """
        ...

    def sizes(self) -> dict[str, int]:
        """Statistics: keys (an estimate), and bytes on disk and in memory."""
        ...

    def verify(self) -> int:
        """Read everything and check it. Returns how many keys there are."""
        ...

    def close(self) -> None:
        """Release all resources. Unflushed batches may be lost. Open scans end."""
        ...
