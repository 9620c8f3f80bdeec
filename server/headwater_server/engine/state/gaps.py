"""Gaps: ranges in which a scan has met deleted keys alone.

    queue    deleted deleted deleted ... deleted | job job job
             start                               end

A deleted key stays for the history window. A queue in keys is scanned from its start for each job,
so each scan would pass all keys that were popped within the window. A gap says that no key from
its start up to its end existed at a commit. It still holds if no later commit has put a key into
it, which the memtables' lists of writes tell.
"""

from typing import Final

from headwater_server.engine.state.layers import State

EXAMINED_MIN: Final = 64
"""Keys that a scan has to meet in vain before it notes a gap."""

GAPS_MAX: Final = 64
"""Gaps that are kept, each for another start. A scan costs one look-up for all of them."""

WRITES_MAX: Final = 10_000
"""Writes since a gap was noted that are looked through: 1 ms. With more, the gap is forgotten."""


def skip_gap(state: State, start: bytes, view: int) -> bytes:
    """Where the first key at or after *start* may be, at a commit."""
    gap = state.gaps.get(start)
    if gap is None:
        return start
    end, commit = gap
    if view < commit:
        # A view of the past may see what is deleted now.
        return start
    if not _still_empty(state, start, end, commit, view):
        del state.gaps[start]
        return start
    state.gaps[start] = end, view
    return end


def note_gap(state: State, start: bytes, end: bytes, view: int) -> None:
    """No key from *start* up to *end* exists at a commit."""
    gap = state.gaps.pop(start, None)
    if gap is not None and gap[1] > view:
        state.gaps[start] = gap
        return
    state.gaps[start] = end, view
    if len(state.gaps) > GAPS_MAX:
        del state.gaps[next(iter(state.gaps))]


def _still_empty(state: State, start: bytes, end: bytes, after: int, upto: int) -> bool:
    """Whether no commit after *after* has put a key into a range; False if that takes long."""
    tables = state.memtables()
    if after < tables[-1].base_commit:
        return False
    looked_at = 0
    for table in tables:
        for commit in range(max(after, table.base_commit) + 1, min(upto, table.last_commit) + 1):
            writes = table.writes_of(commit)
            looked_at += 1 + len(writes)
            if looked_at > WRITES_MAX:
                return False
            for place in range(0, len(writes), 2):
                key = writes[place]
                assert key is not None
                if writes[place + 1] is not None and start <= key < end:
                    return False
    return True
