"""Ranges: the keys of a range that exist at a commit, merged from all layers.

    files            a   c   d           each layer gives its keys up to some point;
    frozen memtable      c!      e!      the newest layer that has a key wins
    active memtable      c!  d!
                     a   c   d   e       a from the files, e frozen, c and d active

Only this module decides what a range scan sees. The caller passes a sink, which takes neighbouring
keys of the files as a run and keys of the memtables one by one. A scan page keeps runs packed; an
iterator unpacks them.
"""

from bisect import bisect_right
from typing import Final

from headwater_server.engine.state.memtable import MemTable, Version
from headwater_server.engine.state.scan_cache import KeyRun, ValueRun
from headwater_server.engine.state.stored_state import StoredState

RUN_KEYS: Final = 256
"""The most keys that are taken from a layer at a time."""


class RangeSink:
    """Takes the keys of a range with their values, in order.

    Attributes:
        more: the sink is full, and something did not fit.
    """

    def __init__(self) -> None:
        self.more = False

    def add_run(self, run: KeyRun, low: int, high: int) -> None:
        """Take the keys of a run at the places from *low* up to *high*."""
        raise NotImplementedError

    def add_key(self, key: bytes, value: bytes) -> None:
        """Take a stored key with its value."""
        raise NotImplementedError


def merge_range(
    sink: RangeSink,
    active: MemTable,
    frozen: MemTable | None,
    run: KeyRun,
    start: bytes,
    end: bytes,
    view: int,
    *,
    count_max: int,
    reverse: bool,
) -> bytes | None:
    """Merge a run of the files with the memtables' keys in its range, into a sink.

    *run* is the first part of [start, end), and at most *count_max* keys are taken from each
    memtable. Stops when the sink is full. Returns where the range goes on; None at its end.
    """
    if run.rest is not None:
        if reverse:
            start = run.rest
        else:
            end = run.rest
    recent, whole = _recent_keys(active, frozen, start, end, count_max, reverse)
    chains = active.chains
    keys = run.keys
    high = run.high
    place = run.low
    for key in recent:
        newest = chains.get(key)
        if newest is None or newest[0] > view:
            newest = _version_at(active, frozen, key, view)
            if newest is None:
                continue
        # The annotation saves mypyc a type check, which halves the time.
        version: Version = newest
        if place < high and keys[place] == key:
            # The usual case if the memtable has most keys.
            place += 1
        elif place < high:
            behind = _place_behind(keys, key, place, high, reverse)
            before = behind - 1 if behind > place and keys[behind - 1] == key else behind
            if before > place:
                sink.add_run(run, place, before)
            place = behind
        value = version[1]
        if value is not None and not sink.more:
            sink.add_key(key, value)
        if sink.more:
            return run.rest
    if whole:
        sink.add_run(run, place, high)
        return run.rest
    last = recent[-1]
    sink.add_run(run, place, _place_behind(keys, last, place, high, reverse))
    return last if reverse else last + b"\0"


def _recent_keys(
    active: MemTable,
    frozen: MemTable | None,
    start: bytes,
    end: bytes,
    count_max: int,
    reverse: bool,
) -> tuple[list[bytes], bool]:
    """The memtables' first keys of the range, in order, and whether these are all."""
    recent: list[bytes] = []
    whole = True
    for table in (active,) if frozen is None else (active, frozen):
        found = table.first_keys(start, end, count_max, reverse=reverse)
        if len(found) == count_max:
            # The memtable may have more keys; shorten the range instead of taking them all.
            whole = False
            if reverse:
                start = found[-1]
            else:
                end = found[-1] + b"\0"
        recent = sorted({*recent, *found}, reverse=reverse) if recent and found else recent or found
    if not whole:
        # The first table may have given keys beyond the end of the second's.
        while recent[-1] < start or recent[-1] >= end:
            del recent[-1]
    return recent, whole


def _version_at(active: MemTable, frozen: MemTable | None, key: bytes, view: int) -> Version | None:
    """The version of a key in the newest memtable that has one at *view*."""
    version = active.version_at(key, view)
    if version is None and frozen is not None:
        version = frozen.version_at(key, view)
    return version


def _place_behind(keys: list[bytes], key: bytes, low: int, high: int, reverse: bool) -> int:
    """The first place from *low* to *high* whose key comes after *key*."""
    if not reverse:
        return bisect_right(keys, key, low, high)
    while low < high and keys[low] >= key:
        low += 1
    return low


class _Items(RangeSink):
    """Collects keys and values one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bytes, bytes]] = []

    def add_run(self, run: KeyRun, low: int, high: int) -> None:
        assert isinstance(run, ValueRun)
        values = run.values
        found = self.found
        for place in range(low, high):
            value = values[place]
            if value is not None:
                found.append((run.keys[place], value))

    def add_key(self, key: bytes, value: bytes) -> None:
        self.found.append((key, value))


def first_items(
    active: MemTable,
    frozen: MemTable | None,
    files: StoredState,
    start: bytes,
    end: bytes,
    view: int,
    *,
    count_max: int,
    size_max: int,
    reverse: bool,
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """The first keys of a range with their values, and where the range goes on.

    About *count_max* keys or *size_max* bytes. There may be none although the range goes on.
    """
    items = _Items()
    run = files.run_at(start, end, view, count_max=count_max, size_max=size_max, reverse=reverse)
    rest = merge_range(
        items, active, frozen, run, start, end, view, count_max=count_max, reverse=reverse
    )
    return items.found, rest
