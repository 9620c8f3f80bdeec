"""The names of streams and categories, in the order of their UTF-8 bytes.

    files       heads of the index, in order of name       account-ann  account-bob  order-1
    memtables   names that have events since, sorted when  account-bob  account-cid
                somebody asks

Names with a common prefix are neighbours. So a prefix is answered by the positions of the names
that have it, and needs no index of its own.
"""

from collections.abc import Iterator

from headwater_server.engine.format.index_keys import STREAM
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family

_NAMES_SIZE_MAX = 1024 * 1024
"""Bytes of the heads that one look at the files may read."""


def names_in_order(
    state: State, kind: bytes, prefix: str, after: str | None, count_max: int
) -> Iterator[tuple[str, bytes | None]]:
    """Names with a prefix, after a name, each with its head in the files, if it has one.

    *kind* is STREAM or CATEGORY. Take at most *count_max* + 1 of them.
    """
    start, end = prefix.encode(), _end_of(prefix.encode())
    if after is not None:
        start = max(start, after.encode() + b"\0")
    if end is not None and start >= end:
        return
    # One more than needed, to know whether there are more.
    recent = _recent(state, kind, start, end, count_max + 1)
    # 0xff does not occur in UTF-8, so this is above every name of the kind.
    stored_end = kind + (b"\xff" if end is None else end)
    place = 0
    for key, entry in state.files.store.scan(Family.INDEX, kind + start, stored_end):
        data = key[1:]
        while place < len(recent) and recent[place] < data:
            yield recent[place].decode(), None
            place += 1
        if place < len(recent) and recent[place] == data:
            place += 1
        yield data.decode(), entry
    for data in recent[place:]:
        yield data.decode(), None


def names_with_prefix(state: State, kind: bytes, prefix: str, count_max: int) -> list[str] | None:
    """All names that begin with a prefix, in order; None if there are more than *count_max*."""
    start, end = prefix.encode(), _end_of(prefix.encode())
    found = _recent(state, kind, start, end, count_max + 1)
    if len(found) <= count_max:
        stored_end = kind + (b"\xff" if end is None else end)
        page = state.files.store.page(
            Family.INDEX,
            kind + start,
            stored_end,
            count_max=count_max + 1,
            size_max=_NAMES_SIZE_MAX,
        )
        if page.more:
            return None
        found = sorted({*found, *(key[1:] for key in page.keys)})
    return None if len(found) > count_max else [data.decode() for data in found]


def _recent(
    state: State, kind: bytes, start: bytes, end: bytes | None, count_max: int
) -> list[bytes]:
    """The first names of the memtables in a range, at most *count_max*."""
    index = "stream" if kind == STREAM else "category"
    names: set[bytes] = set()
    for table in state.memtables():
        names.update(table.first_names(index, start, end, count_max))
    return sorted(names)[:count_max]


def _end_of(prefix: bytes) -> bytes | None:
    """Above every name with the prefix; None if that is every name."""
    return prefix + b"\xff" if prefix else None
