"""Changes of keys: what each commit wrote in a range, with the old and the new value.

    commit 7    a: 1 -> 2    b: (none) -> 5
    commit 9    a: 2 -> (none)
    commit 10   b: 5 -> (none), expired

The memtables keep the writes of each commit. For the files, CHANGES has the keys of each commit
after the horizon, and the values before and after are ordinary reads. So changes are known as far
back as commits can be read.

A commit may have 100,000 keys, and hundreds of megabytes of old values. So a large commit is read
in parts. A part ends inside of the commit, after a key, and the next part goes on from there.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import Final, NamedTuple

from headwater_server.engine.format.index_keys import changes_key, parse_changes
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family

COMMIT_KEYS_MAX: Final = 1_000
"""Keys of one commit in a page: about 10 ms, for a look-up before and one after."""


class Change(NamedTuple):
    """A key, without the byte of its key space, and its values before and after; None: absent.

    *expired* says that the commit deleted the key because its time had come.
    """

    key: bytes
    old: bytes | None
    new: bytes | None
    expired: bool = False


class CommitChanges(NamedTuple):
    """The changes of one commit in the range, in order of key; never empty."""

    commit: int
    changes: list[Change]


class ChangesPage(NamedTuple):
    """Changes in order of commit.

    Attributes:
        commits: whole commits, unless *inside* says that the last one goes on.
        commit: the last commit that was examined to its end.
        more: more may follow.
        inside: the last key of a part of a commit, or None.
    """

    commits: list[CommitChanges]
    commit: int
    more: bool
    inside: bytes | None = None


class PartlyRead:
    """The keys of the large commit that was read last. Each part would otherwise sort them."""

    __slots__ = ("commit", "keys")

    def __init__(self) -> None:
        self.commit = 0
        self.keys: list[bytes] = []

    def note(self, commit: int, keys: list[bytes]) -> None:
        """Keep the sorted keys of a commit; commit 0 and no keys: forget them."""
        self.commit = commit
        self.keys = keys


def read_changes(
    state: State,
    after: int,
    upto: int,
    first: bytes,
    last: bytes,
    *,
    count_max: int,
    size_max: int,
    examined_max: int,
    inside: bytes | None = None,
    partly: PartlyRead | None = None,
) -> ChangesPage:
    """The changes of stored keys in [first, last) by the commits in (*after*, *upto*].

    A page ends after the commit that reaches *count_max* changes, *size_max* bytes or
    *examined_max* examined keys. A commit that alone has more than COMMIT_KEYS_MAX changes or
    *size_max* bytes ends the page inside. Pass that page's `commit` and `inside` to go on.
    """
    if partly is None:
        partly = PartlyRead()
    found: list[CommitChanges] = []
    count = size = examined = 0
    for commit, keys in _keys_in_order(state, after, upto, partly):
        examined += len(keys) + 1
        begin = 0 if inside is None else bisect_right(keys, inside)
        changes, changes_size, end = _part(state, commit, keys, begin, first, last, size_max)
        if end < len(keys):
            partly.note(commit, keys)
            found.append(CommitChanges(commit, changes))
            return ChangesPage(found, commit - 1, more=True, inside=keys[end - 1])
        if changes or inside is not None:
            # The last part marks the end of the commit, even if it is empty.
            found.append(CommitChanges(commit, changes))
        if inside is not None:
            partly.note(0, [])
        inside = None
        count += len(changes)
        size += changes_size
        if count >= count_max or size >= size_max or examined >= examined_max:
            return ChangesPage(found, commit, more=commit < upto)
    return ChangesPage(found, upto, more=False)


def has_expired(state: State, commit: int, key: bytes) -> bool:
    """Whether a commit deleted a key because its time had come."""
    until = state.expiry(key, commit - 1)
    return until is not None and until <= state.commit_record(commit).time


def keys_of_commit(state: State, commit: int, partly: PartlyRead) -> list[bytes]:
    """The stored keys that a commit has written, in order."""
    for found, keys in _keys_in_order(state, commit - 1, commit, partly):
        if found == commit:
            return keys
    return []


def _part(
    state: State,
    commit: int,
    keys: list[bytes],
    begin: int,
    first: bytes,
    last: bytes,
    size_max: int,
) -> tuple[list[Change], int, int]:
    """The changes in a range from a place in a commit's keys on, their size, and where they end."""
    changes: list[Change] = []
    size = 0
    begin = max(begin, bisect_left(keys, first))
    range_end = bisect_left(keys, last)
    for place in range(begin, range_end):
        if len(changes) >= COMMIT_KEYS_MAX or size >= size_max:
            return changes, size, place
        key = keys[place]
        old, new = state.get(key, commit - 1), state.get(key, commit)
        if old is not new or new is not None:
            expired = new is None and has_expired(state, commit, key)
            changes.append(Change(key[1:], old, new, expired))
            size += len(key) + len(old or b"") + len(new or b"")
    return changes, size, len(keys)


def _keys_in_order(
    state: State, after: int, upto: int, partly: PartlyRead
) -> Iterator[tuple[int, list[bytes]]]:
    """Each commit that wrote keys, in order, with those keys, also in order."""
    if partly.commit == after + 1:
        yield partly.commit, partly.keys
        after += 1
    for commit, keys in _written(state, after, upto):
        keys.sort()
        yield commit, keys


def keys_written(state: State, commit: int) -> Iterator[bytes]:
    """The stored keys that a commit of the history window wrote, of all key spaces."""
    if commit <= state.files.applied_commit:
        entries = state.files.store.scan(Family.CHANGES, changes_key(commit))
        for _, entry in entries:
            for written, _, key in parse_changes(entry):
                if written > commit:
                    return
                if written == commit:
                    yield key
        return
    for table in state.memtables():
        if table.base_commit < commit <= table.last_commit:
            yield from (key for key in table.writes_of(commit)[::2] if key is not None)


def _written(state: State, after: int, upto: int) -> Iterator[tuple[int, list[bytes]]]:
    """Each commit that wrote keys, in order, with those keys of all key spaces."""
    applied = state.files.applied_commit
    if after < applied:
        entries = state.files.store.scan(Family.CHANGES, changes_key(after + 1))
        changes = (change for _, entry in entries for change in parse_changes(entry))
        for commit, group in groupby(changes, lambda change: change[0]):
            if commit > min(upto, applied):
                break
            if commit > after:
                yield commit, [key for _, _, key in group]
    for table in reversed(state.memtables()):
        for commit in range(
            max(after, table.base_commit, applied) + 1, min(upto, table.last_commit) + 1
        ):
            writes = table.writes_of(commit)
            if writes:
                yield commit, [key for key in writes[::2] if key is not None]
