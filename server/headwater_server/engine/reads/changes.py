"""Changes of keys: what each commit wrote in a range, with the old and the new value.

    commit 7    a: 1 -> 2    b: (none) -> 5
    commit 9    a: 2 -> (none)

The memtables keep the writes of each commit. For the files, CHANGES has the keys of each commit
after the horizon, and the values before and after are ordinary reads. So changes are known as far
back as commits can be read.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from headwater_server.engine.format.index_keys import changes_key, parse_changes
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family


class Change(NamedTuple):
    """A key, without the byte of its key space, and its values before and after; None: absent."""

    key: bytes
    old: bytes | None
    new: bytes | None


class CommitChanges(NamedTuple):
    """The changes of one commit in the range, in order of key; never empty."""

    commit: int
    changes: list[Change]


class ChangesPage(NamedTuple):
    """Whole commits in order, the last commit that was examined, and whether more may follow."""

    commits: list[CommitChanges]
    commit: int
    more: bool


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
) -> ChangesPage:
    """The changes of stored keys in [first, last) by the commits in (*after*, *upto*].

    A page ends after the commit that reaches *count_max* changes, *size_max* bytes or
    *examined_max* examined keys. Commits are never split, however large.
    """
    found: list[CommitChanges] = []
    count = size = examined = 0
    for commit, keys in _written(state, after, upto):
        examined += len(keys) + 1
        changes = [
            Change(key[1:], old, new)
            for key in sorted(key for key in keys if first <= key < last)
            if (old := state.get(key, commit - 1)) is not (new := state.get(key, commit))
            or new is not None
        ]
        if changes:
            found.append(CommitChanges(commit, changes))
            count += len(changes)
            size += sum(len(key) + len(old or b"") + len(new or b"") for key, old, new in changes)
        if count >= count_max or size >= size_max or examined >= examined_max:
            return ChangesPage(found, commit, more=commit < upto)
    return ChangesPage(found, upto, more=False)


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
