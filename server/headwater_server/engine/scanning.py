"""Scans: a page of the keys of a range, from all layers, as it goes out.

    files            a   c   d           each layer gives its keys up to some point;
    frozen memtable      c!      e!      a key that several have is of the newest layer
    active memtable      c!  d!
                     a   c   d   e       the page: a of the files, e frozen, c and d active

A page is bytes that are ready for an answer: keys and values in turn, as msgpack. Those of the
files are packed once, when they are read (see clean_pages.py); what a memtable has is packed as
it is laid over. So most of a page is copied and never looked at.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from headwater_protocol.messages import array_header, decode, encode
from headwater_server.engine.clean_pages import BIN_HEADERS, KeyRun, bytes_packed, key_packed
from headwater_server.engine.memtable import MemTable, Version
from headwater_server.engine.state import State

_RUN_KEYS: Final = 256
"""Keys that are taken from each layer at a time. A page that wants more goes on from there."""


class ScanPage(NamedTuple):
    """Keys in order with their values.

    Attributes:
        key_count: how many keys.
        packed: key, value, key, value …, as msgpack; keys without the byte of their space.
        more: whether the range goes on after the last.
        last: the last key, as it is stored; empty if there is none.
    """

    key_count: int
    packed: bytes
    more: bool
    last: bytes

    @property
    def items(self) -> list[bytes]:
        """Keys and values in turn, taken apart."""
        members = array_header(2 * self.key_count) + self.packed
        items: list[bytes] = decode(members, 0, 2 * self.key_count + 1)
        return items


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

    Their packed form takes no more than *size_max* bytes, unless it is one key's alone.
    """
    keys: list[bytes] = []
    items: list[bytes] = []
    while True:
        # One more than wanted, which is how we know that there is more.
        count = min(limit + 1 - len(keys), _RUN_KEYS)
        run = _layered(state, start, end, view, count, size_max, reverse)
        keys += run.keys
        items += run.items
        rest = run.rest
        if rest is None or len(keys) > limit:
            break
        if len(keys) > 1 and sum(map(len, items)) > size_max:
            break
        if reverse:
            end = rest
        else:
            start = rest
    more = len(keys) > limit
    if more:
        del keys[limit:], items[limit:]
    packed = b"".join(items)
    if len(packed) <= size_max or len(items) <= 1:
        return ScanPage(len(items), packed, more, keys[-1] if keys else b"")
    size = len(items[0])
    place = 1
    while size + len(items[place]) <= size_max:
        size += len(items[place])
        place += 1
    return ScanPage(place, packed[:size], True, keys[place - 1])


def pack_page(found: Iterator[tuple[bytes, bytes]], limit: int, size_max: int) -> ScanPage:
    """A page of stored keys and values that come one by one."""
    items: list[bytes] = []
    last = b""
    size = 0
    for key, value in found:
        item = key_packed(key) + bytes_packed(value)
        size += len(item)
        if len(items) >= limit or (size > size_max and items):
            return ScanPage(len(items), b"".join(items), True, last)
        items.append(item)
        last = key
    return ScanPage(len(items), b"".join(items), False, last)


def _layered(
    state: State, start: bytes, end: bytes, view: int, count: int, size_max: int, reverse: bool
) -> KeyRun:
    """Some keys of the range that exist at *view*, and where it goes on."""
    run = state.files.page(start, end, view, count_max=count, size_max=size_max, reverse=reverse)
    # The oldest first: what is newer is laid over it.
    for table in reversed(state.memtables()):
        if not table.chains:
            continue
        low, high = start, end
        if run.rest is not None:
            if reverse:
                low = run.rest
            else:
                high = run.rest
        here = table.count_within(low, high)
        if here > 2 * count:
            # It has many keys where the files have few: not all of them now.
            taken = list(islice(table.keys(low, high, reverse=reverse), 2 * count))
            run = _cut(run, taken[-1] if reverse else taken[-1] + b"\0", reverse)
            run = _with_new(run, taken, reverse)
            _lay_over(table, run, view)
        elif here and _lay_over(table, run, view) < here:
            run = _with_new(run, list(table.keys(low, high, reverse=reverse)), reverse)
            _lay_over(table, run, view)
    if all(run.items):
        return run
    there = [place for place, item in enumerate(run.items) if item]
    return run._replace(
        keys=[run.keys[place] for place in there], items=[run.items[place] for place in there]
    )


def _cut(run: KeyRun, rest: bytes, reverse: bool) -> KeyRun:
    """What a run has before *rest*, which comes before its own."""
    if reverse:
        place = len(run.keys)
        while place and run.keys[place - 1] < rest:
            place -= 1
    else:
        place = bisect_left(run.keys, rest)
    return KeyRun(run.keys[:place], run.heads[:place], run.items[:place], rest)


def _with_new(run: KeyRun, recent: list[bytes], reverse: bool) -> KeyRun:
    """The run with those keys of a memtable that it has not, as deleted ones, in their places."""
    new = set(recent).difference(run.keys)
    if not new:
        return run
    item_of = dict(zip(run.keys, run.items, strict=True))
    head_of = dict(zip(run.keys, run.heads, strict=True))
    for key in new:
        item_of[key] = b""
        head_of[key] = key_packed(key)
    keys = sorted(item_of, reverse=reverse)
    return KeyRun(keys, [head_of[key] for key in keys], [item_of[key] for key in keys], run.rest)


def _lay_over(table: MemTable, run: KeyRun, view: int) -> int:
    """Put the versions that a memtable has at *view* over older ones; how many keys it has."""
    keys, heads, items = run.keys, run.heads, run.items
    chains = table.chains
    headers = BIN_HEADERS
    count = 0
    for place in range(len(keys)):
        newest = chains.get(keys[place])
        if newest is None:
            continue
        count += 1
        # Types are said where mypyc would look at what an object is: half of the time.
        version: Version = newest
        while version[0] > view:
            older: Version | None = version[2]
            if older is None:
                break
            version = older
        else:
            value = version[1]
            if value is None:
                items[place] = b""
                continue
            head: bytes = heads[place]
            size = len(value)
            if size < 256:
                # As bytes_packed does: a call for each is half of what all of this costs.
                header: bytes = headers[size]
                items[place] = head + header + value
            else:
                items[place] = head + encode(value)
    return count
