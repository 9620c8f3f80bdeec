"""Scans: pages of the keys of a range, packed for an answer.

A page is msgpack: keys and values, alternating. The files give neighbouring keys packed in one
piece (see scan_cache.py). So a page is a slice of such a piece if the memtables have no key in it;
each key of a memtable cuts the slice in two. range_merge.py decides which keys a page has.
"""

from bisect import bisect_right
from collections.abc import Iterator

from headwater_protocol.messages import BIN_HEADERS, array_header, bin_header, decode
from headwater_server.engine.state.gaps import EXAMINED_MIN, note_gap, skip_gap
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.range_merge import RUN_KEYS, RangeSink, merge_range
from headwater_server.engine.state.scan_cache import KEYS_MIN, KeyRun, PackedRun


class ScanPage:
    """Keys in order with their values.

    Attributes:
        key_count: how many keys.
        packed: key, value, key, value …, as msgpack; keys without the byte of their key space.
        more: whether the range goes on after the last key.
        last: the last stored key; empty if there is none.
        examined: about how many keys were met, deleted ones included.
    """

    # Not a named tuple: creating one would double the cost of a short page.
    __slots__ = ("examined", "key_count", "last", "more", "packed")

    def __init__(self, key_count: int, packed: bytes, more: bool, last: bytes) -> None:
        self.examined = key_count
        self.key_count = key_count
        self.packed = packed
        self.more = more
        self.last = last

    @property
    def items(self) -> list[bytes]:
        """The keys and values, alternating, unpacked."""
        members = array_header(2 * self.key_count) + self.packed
        items: list[bytes] = decode(members, 0, 2 * self.key_count + 1)
        return items


class _Filling(RangeSink):
    """A page that is being filled, with keys in order.

    Attributes:
        count: how many keys it has.
        last: the last stored key.
        more: a key did not fit, so the page is full and the range goes on.
    """

    def __init__(self, count_max: int, size_max: int) -> None:
        # Do not call the base class: this saves a call, and a test counts the calls of a page.
        self.more = False
        self._count_max = count_max
        self._size_max = size_max
        self._pieces: list[bytes] = []
        self._size = 0
        self.count = 0
        self.last = b""

    def add_run(self, run: KeyRun, low: int, high: int) -> None:
        """Add the keys of a packed run at the places from *low* up to *high*."""
        assert isinstance(run, PackedRun)
        room = self._count_max - self.count
        if high - low > room:
            high = low + room
            self.more = True
        if low >= high:
            return
        offsets = run.offsets
        first: int = offsets[low]
        end: int = offsets[high]
        if end - first > self._size_max - self._size:
            high = self._fitting(run, low, high)
            if low >= high:
                return
            end = offsets[high]
        self._pieces.append(run.packed[first:end])
        self._size += end - first
        self.count += high - low
        self.last = run.keys[high - 1]

    def _fitting(self, run: PackedRun, low: int, high: int) -> int:
        """The place up to which a run fits by its bytes, if it does not fit whole."""
        end = run.offsets[low] + self._size_max - self._size
        fitting = bisect_right(run.offsets, end, low, high + 1) - 1
        # A key that is too large gets a page of its own.
        fitting = max(fitting, low if self.count else low + 1)
        if fitting < high:
            self.more = True
        return fitting

    def add_key(self, key: bytes, value: bytes) -> None:
        """Add a stored key that is not packed yet."""
        name = key[1:]
        name_size = len(name)
        value_size = len(value)
        # Most are short, and calling bin_header would cost a third of this method.
        name_header = BIN_HEADERS[name_size] if name_size < 256 else bin_header(name_size)
        header = BIN_HEADERS[value_size] if value_size < 256 else bin_header(value_size)
        size = len(name_header) + name_size + len(header) + value_size
        if self.count >= self._count_max or (self.count and self._size + size > self._size_max):
            self.more = True
            return
        # Do not concatenate them here: that would create three more objects.
        pieces = self._pieces
        pieces.append(name_header)
        pieces.append(name)
        pieces.append(header)
        pieces.append(value)
        self._size += size
        self.count += 1
        self.last = key

    def page(self) -> ScanPage:
        """The page as it is now."""
        return ScanPage(self.count, b"".join(self._pieces), self.more, self.last)


def scan_page(
    state: State,
    start: bytes,
    end: bytes,
    view: int,
    *,
    limit: int,
    size_max: int,
    reverse: bool,
) -> ScanPage:
    """The keys of [start, end) at a commit, at most *limit* of them.

    Their packed form has at most *size_max* bytes, unless there is only one key.
    """
    filling = _Filling(limit, size_max)
    # One more than needed, to know whether there is more.
    wanted = limit + 1
    examined = 0
    first = start
    empty_to = b""
    if state.gaps and not reverse:
        start = skip_gap(state, start, view)
    while start < end:
        count_max = min(wanted, RUN_KEYS)
        examined += count_max
        run = state.files.run(
            start, end, view, count_max=count_max, size_max=size_max, reverse=reverse
        )
        active = state.active
        frozen = state.frozen
        if active.chains or (frozen is not None and frozen.chains):
            rest = merge_range(
                filling, active, frozen, run, start, end, view, count_max=count_max, reverse=reverse
            )
        else:
            # The merge would give the same with more calls, which a test counts.
            filling.add_run(run, run.low, run.high)
            rest = run.rest
        if not filling.count and not reverse and not filling.more:
            empty_to = end if rest is None else rest
        if rest is None or filling.more:
            break
        # The page is usually full by now. Ask for several keys: one at a time would be slow in a
        # range with many deletions.
        wanted = max(limit + 1 - filling.count, KEYS_MIN)
        if reverse:
            end = rest
        else:
            start = rest
    if empty_to and examined > EXAMINED_MIN:
        note_gap(state, first, empty_to, view)
    page = filling.page()
    page.examined = examined
    return page


def pack_page(found: Iterator[tuple[bytes, bytes]], limit: int, size_max: int) -> ScanPage:
    """A page of stored keys and values that come one by one."""
    filling = _Filling(limit, size_max)
    for key, value in found:
        filling.add_key(key, value)
        if filling.more:
            break
    return filling.page()
