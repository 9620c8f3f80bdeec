"""A state store in memory, for tests and simulation: a simulated crash loses batches.

It keeps the live and the durable content, and the batches between them in order:

    durable  +  batches since the last flush  =  live
    crashed  =  durable  +  the first few of those batches
"""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from weakref import WeakSet

from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import (
    DELETE,
    DELETE_RANGE,
    FAMILY_END,
    PUT,
    Family,
    Page,
    WriteBatch,
)

try:
    from sortedcontainers import SortedDict
except ModuleNotFoundError as error:
    message = "the state store in memory is for tests and needs sortedcontainers: headwater[dev]"
    raise ModuleNotFoundError(message, name="sortedcontainers") from error

_Content = SortedDict[bytes, bytes]


class _Scan:
    """An open scan.

    It reads the live content lazily. Before a write changes that, the scan copies the rest of its
    range.
    """

    def __init__(self, content: _Content, start: bytes, end: bytes, *, reverse: bool) -> None:
        keys = content.irange(start, end, inclusive=(True, False), reverse=reverse)
        self._items: Iterator[tuple[bytes, bytes]] = ((key[1:], content[key]) for key in keys)

    def __iter__(self) -> "_Scan":
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        return next(self._items)

    def detach(self) -> None:
        """Copy the rest of the range: the content is about to change."""
        self._items = iter(list(self._items))

    def end(self) -> None:
        """End the scan: the store was closed."""
        self._items = iter(())


class MemoryStore:
    """A state store whose disk is a dict. *source* draws what a crash leaves.

    Attributes:
        full: the disk is full: flush fails, and later writes do, until this is False and the store
            was reopened.
        checkpoints: the stores that `checkpoint_to` made, by path; they have no files.
    """

    def __init__(self, source: random.Random | None = None) -> None:
        self.full = False
        self.checkpoints: dict[str, MemoryStore] = {}
        self._source = source if source is not None else random.Random(0)
        self._live: _Content = SortedDict()
        self._durable: _Content = SortedDict()
        self._unflushed: list[WriteBatch] = []
        self._failed = False
        self._scans: WeakSet[_Scan] = WeakSet()

    # For tests.

    def crash(self, source: random.Random | None = None) -> "MemoryStore":
        """The store after a power loss now. This one does not change."""
        found = MemoryStore(self._source)
        found._durable = self._after_crash(source or self._source)
        found._live = found._durable.copy()
        return found

    def _after_crash(self, source: random.Random) -> _Content:
        content = self._durable.copy()
        for batch in islice(self._unflushed, source.randint(0, len(self._unflushed))):
            _apply(batch, content)
        return content

    # The interface.

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._live.get(family + key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._live.get(family + key) for key in keys]

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        stored_end = FAMILY_END[family] if end is None else family + end
        scan = _Scan(self._live, family + start, max(stored_end, family + start), reverse=reverse)
        self._scans.add(scan)
        return scan

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
        stored_end = FAMILY_END[family] if end is None else family + end
        content = self._live
        page = Page([], [], more=False)
        size = 0
        for key in content.irange(family + start, stored_end, (True, False), reverse):
            page.keys.append(key[1:])
            page.values.append(content[key])
            size += len(content[key])
            if len(page.keys) >= count_max or size >= size_max:
                return page._replace(more=True)
        return page

    def write(self, batch: WriteBatch) -> None:
        if self._failed:
            raise DiskFull("memory", len(batch))
        for scan in list(self._scans):
            scan.detach()
        self._scans.clear()
        _apply(batch, self._live)
        # A copy: the caller may add to the batch and write it again.
        self._unflushed.append(batch.copy())

    def compact(self, family: Family, start: bytes, end: bytes) -> None:
        """Does nothing: the store keeps no overwritten data."""

    def flush(self) -> None:
        if self.full or self._failed:
            self._failed = True
            raise DiskFull("memory", sum(map(len, self._unflushed)))
        for batch in self._unflushed:
            _apply(batch, self._durable)
        self._unflushed.clear()

    def checkpoint_to(self, path: str) -> None:
        made = MemoryStore(self._source)
        made._durable = self._durable.copy()
        made._live = self._durable.copy()
        self.checkpoints[path] = made

    def reopen(self) -> None:
        self.close()
        self._durable = self._after_crash(self._source)
        self._live = self._durable.copy()
        self._unflushed.clear()
        self._failed = False

    def sizes(self) -> dict[str, int]:
        size = sum(len(key) + len(value) for key, value in self._live.items())
        return {"keys": len(self._live), "file_bytes": 0, "memory_bytes": size, "cache_bytes": 0}

    def verify(self) -> int:
        return len(self._live)

    def close(self) -> None:
        for scan in list(self._scans):
            scan.end()
        self._scans.clear()


def _apply(batch: WriteBatch, content: _Content) -> None:
    for place, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        operation = batch.others.get(place, PUT)
        if operation == PUT:
            content[key] = value
        elif operation == DELETE:
            content.pop(key, None)
        else:
            assert operation == DELETE_RANGE
            for each in list(content.irange(key, value, inclusive=(True, False))):
                del content[each]
