"""Salvages the readable keys of a damaged RocksDB state store.

RocksDB has its own repair. In a test with one flipped bit in one block of 4 KiB, it discarded the
whole file, with 80,000 keys. So we use it only if the store does not open, because its list
of files is missing. Otherwise we copy everything that can be read into a new store:

    keys    a b c d [ damaged block ] m n o p ...
                  ^ the scan ends here, because RocksDB finds a wrong checksum
                     ^ ^    ^       ^ seeks; the scan continues at the first that succeeds

A seek to a key in a damaged block fails, and a seek behind it succeeds, so a binary search finds
the end of the block. RocksDB reads a key from all levels or not at all, so a gap never exposes an
old value.
"""

import os
from collections.abc import Iterator
from typing import Final

import rocksdict

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.store.interface import WriteBatch
from headwater_server.storage.store.rocks_store import RocksSettings, RocksStore

_KEY_SIZE_MAX: Final = 256
"""Bytes of a key that the search compares; neighbouring blocks differ well before that."""

_BATCH_ENTRIES: Final = 1000
_BATCH_SIZE: Final = 4 * 1024 * 1024
_LAST_KEY: Final = b"\xff" * _KEY_SIZE_MAX


def repair_rocks(path: str, settings: RocksSettings | None = None) -> str:
    """Replace the damaged store at *path* by one that opens, and keep the damaged one.

    Returns:
        a sentence about what was done and what is lost.

    Raises:
        DiskFull: there is no room for the new store; the old one is unchanged.
    """
    words = ""
    if not _opens(path):
        rocksdict.Rdict.repair(path, rocksdict.Options(raw_mode=True))
        words = "had RocksDB rebuild its list of files; "
    new = f"{path}.new"
    if os.path.isdir(new):
        rocksdict.Rdict.destroy(new)
    count, gaps = _copy(path, new, settings)
    aside = _free_name(path)
    os.rename(path, aside)
    os.rename(new, path)
    _sync(os.path.dirname(path) or ".")
    lost = f"{gaps} ranges of keys could not be read" if gaps else "all of it could be read"
    return f"{words}copied {count} entries of the state store into a new one; {lost}; kept {aside}"


def _opens(path: str) -> bool:
    try:
        RocksStore.open(path, read_only=True).close()
    except DamagedFile:
        return False
    return True


def _copy(path: str, new: str, settings: RocksSettings | None) -> tuple[int, int]:
    count = 0
    salvage = _Salvage(path)
    store = RocksStore.open(new, settings)
    try:
        batch = WriteBatch()
        size = 0
        for key, value in salvage.entries():
            batch.keys.append(key)
            batch.values.append(value)
            size += len(key) + len(value)
            count += 1
            if len(batch) >= _BATCH_ENTRIES or size >= _BATCH_SIZE:
                store.write(batch)
                batch = WriteBatch()
                size = 0
        store.write(batch)
        store.flush()
    finally:
        store.close()
        salvage.close()
    return count, salvage.gaps


class _Salvage:
    """Reads all readable entries of a store. `gaps`: number of ranges that it could not read."""

    def __init__(self, path: str) -> None:
        self.gaps = 0
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(False)
        self._database = rocksdict.Rdict(
            path, options, access_type=rocksdict.AccessType.read_only(False)
        )

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        start: bytes | None = b""
        while start is not None:
            last: bytes | None = None
            iterator = self._database.iter()
            iterator.seek(start)
            while (key := iterator.key()) is not None:
                last = key
                yield key, iterator.value()
                iterator.next()
            if _is_whole(iterator):
                return
            self.gaps += 1
            start = self._behind_damage(start if last is None else last + b"\0")

    def _behind_damage(self, start: bytes) -> bytes | None:
        """The lowest key, at or after *start*, from which reading works; None if there is none."""
        low, high = _number(start), _number(_LAST_KEY)
        step = 1
        # Begin with small steps, to find the end of this block and not that of a later one.
        while low + step < high and not self._reads_at(_key(low + step)):
            low += step
            step *= 2
        if low + step < high:
            high = low + step
        elif not self._reads_at(_key(high)):
            return None
        while low + 1 < high:
            middle = (low + high) // 2
            if self._reads_at(_key(middle)):
                high = middle
            else:
                low = middle
        return _key(high)

    def _reads_at(self, key: bytes) -> bool:
        iterator = self._database.iter()
        iterator.seek(key)
        return _is_whole(iterator)

    def close(self) -> None:
        self._database.close()


def _is_whole(iterator: rocksdict.RdictIter) -> bool:
    try:
        iterator.status()
    except Exception as error:
        # rocksdict raises plain Exception for every error of RocksDB.
        if type(error) is not Exception:
            raise
        return False
    return True


def _number(key: bytes) -> int:
    return int.from_bytes(key[:_KEY_SIZE_MAX].ljust(_KEY_SIZE_MAX, b"\0"), "big")


def _key(number: int) -> bytes:
    return number.to_bytes(_KEY_SIZE_MAX, "big")


def _free_name(path: str) -> str:
    number = 1
    while os.path.exists(f"{path}.damaged-{number}"):
        number += 1
    return f"{path}.damaged-{number}"


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
