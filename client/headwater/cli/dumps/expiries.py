"""The expiries of keys, read beside the keys of a dump, in the same order."""

from collections.abc import Iterator
from datetime import datetime

from headwater.blocking.past import BlockingPast
from headwater.records import time_of
from headwater.transport.stepping import step
from headwater_protocol.keys import key_after
from headwater_protocol.limits import PAGE_ITEMS_MAX


class Expiries:
    """When keys expire. They are asked for in the order of keys."""

    def __init__(self, past: BlockingPast) -> None:
        self._items = _stored_expiries(past)
        self._next = next(self._items, None)

    def of(self, key: bytes) -> datetime | None:
        """When a key expires; None: it does not."""
        while self._next is not None and self._next[0] < key:
            self._next = next(self._items, None)
        if self._next is None or self._next[0] != key:
            return None
        return time_of(self._next[1])


def _stored_expiries(past: BlockingPast) -> Iterator[tuple[bytes, int]]:
    first, more = b"", True
    while more:
        page = past._core._fetch("scan_expiries", first, None, PAGE_ITEMS_MAX, False)  # noqa: SLF001
        _, items, more = step(page)
        yield from zip(items[::2], items[1::2], strict=True)
        first = key_after(items[-2]) if items else first
