r"""Postings: the positions of the events of a stream, a category, a type or a tag.

    head     id, version, last position, and the tail: the newest positions
    posting  up to 8192 positions, keyed by the version or the position of its first

                      postings                        head's tail
    stream     [1 ..... 8192][8193 .. 9000]        [9001 9002 9003]
                \________ versions before the tail ______/ \__ version - len(tail) + 1 and on

A head is read before its postings, and meanwhile a checkpoint in another thread may move the tail
to a posting. So nothing here reads postings at or after the tail of the head that was read. That
head and the older postings are consistent, whatever is added later.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format.index_keys import (
    NUMBER_END,
    STREAM,
    IndexHead,
    head_key,
    parse_head,
    parse_posting_key,
    posting_key,
    unpack_positions,
)
from headwater_server.storage.store.interface import Family, StateStore


def read_head(store: StateStore, kind: bytes, name: str) -> IndexHead | None:
    """The head of a stream, a category, a type or a tag, or None if it has no event."""
    entry = store.get(Family.INDEX, head_key(kind, name))
    return None if entry is None else parse_head(entry)


def positions_of_versions(
    store: StateStore, head: IndexHead, first: int, last: int
) -> "array[int]":
    """The positions of a stream's versions *first* to *last*, both included."""
    assert first >= 1, "versions begin at 1"
    assert last <= head.version, f"version {last} of a stream at {head.version}"
    tail_first = head.version - len(head.tail) + 1
    found = array("Q")
    if first < tail_first:
        end = min(last + 1, tail_first)
        for posting_first, entry in _forwards(store, STREAM, head.id, first, end):
            low = max(first - posting_first, 0)
            found.extend(unpack_positions(entry[low * 8 : (end - posting_first) * 8]))
    if last >= tail_first:
        found.extend(head.tail[max(first - tail_first, 0) : last - tail_first + 1])
    if len(found) != max(last - first + 1, 0):
        raise _missing(head, first)
    return found


def version_at_position(store: StateStore, head: IndexHead, position: int) -> int:
    """How many of a stream's events have *position* or a lower one."""
    if position >= head.last_position:
        return head.version
    low, high = 0, head.version - len(head.tail)
    count = bisect_right(head.tail, position)
    if count:
        return high + count
    # Bisect over postings, not versions: reading one decides all of its versions.
    while low < high:
        found = next(_backwards(store, STREAM, head.id, (low + high + 1) // 2 + 1), None)
        if found is None or not found[1]:
            raise _missing(head, 1)
        first, entry = found
        positions = unpack_positions(entry)
        if positions[0] > position:
            high = first - 1
        elif positions[-1] <= position:
            low = first + len(positions) - 1
        else:
            return first - 1 + bisect_right(positions, position)
    return low


def positions_between(
    store: StateStore,
    kind: bytes,
    head: IndexHead,
    after: int,
    upto: int,
    limit: int,
    *,
    reverse: bool,
) -> "array[int]":
    """At most *limit* positions in (after, upto] of a category, a type or a tag, in order."""
    found = array("Q")
    upto = min(upto, head.last_position)
    if after >= upto or limit <= 0:
        return found
    tail_first = head.tail[0] if head.tail else head.last_position + 1
    in_tail = head.tail[bisect_right(head.tail, after) : bisect_right(head.tail, upto)]
    if reverse:
        in_tail.reverse()
        found.extend(in_tail[:limit])
        if len(found) == limit:
            return found
        for first, entry in _backwards(store, kind, head.id, min(upto + 1, tail_first)):
            positions = unpack_positions(entry)
            run = positions[bisect_right(positions, after) : bisect_right(positions, upto)]
            run.reverse()
            found.extend(run[: limit - len(found)])
            if first <= after or len(found) == limit:
                break
        return found
    end = min(upto + 1, tail_first)
    for _, entry in _forwards(store, kind, head.id, after + 1, end):
        positions = unpack_positions(entry)
        run = positions[bisect_right(positions, after) : bisect_left(positions, end)]
        found.extend(run[: limit - len(found)])
        if len(found) == limit:
            return found
    found.extend(in_tail[: limit - len(found)])
    return found


def _missing(head: IndexHead, version: int) -> DamagedFile:
    return DamagedFile(
        f"state: positions from version {version} on of the stream that begins at position "
        f"{head.id} are missing from the index",
        details={"file": "state"},
    )


def all_postings(
    store: StateStore, kind: bytes, identity: int
) -> Iterator[tuple[int, "array[int]"]]:
    """Every posting of one stream, category, type or tag, with its first version or position."""
    start, end = posting_key(kind, identity, 0), posting_key(kind, identity, NUMBER_END)
    for entry_key, entry in store.scan(Family.INDEX, start, end):
        yield parse_posting_key(entry_key)[1], unpack_positions(entry)


def _backwards(
    store: StateStore, kind: bytes, identity: int, end: int
) -> Iterator[tuple[int, bytes]]:
    """The postings that begin before *end*, last one first."""
    start_key, end_key = posting_key(kind, identity, 0), posting_key(kind, identity, end)
    for entry_key, entry in store.scan(Family.INDEX, start_key, end_key, reverse=True):
        yield parse_posting_key(entry_key)[1], entry


def _forwards(
    store: StateStore, kind: bytes, identity: int, first: int, end: int
) -> Iterator[tuple[int, bytes]]:
    """The posting that holds *first*, and all after it that begin before *end*."""
    if first >= end:
        return
    start = 0
    if first > 1:
        # The posting may begin before *first*, so find it by searching backwards.
        found = next(_backwards(store, kind, identity, first + 1), None)
        if found is not None:
            yield found
            start = found[0] + 1
    start_key, end_key = posting_key(kind, identity, start), posting_key(kind, identity, end)
    if start_key < end_key:
        for entry_key, entry in store.scan(Family.INDEX, start_key, end_key):
            yield parse_posting_key(entry_key)[1], entry
