"""The history of a key: each commit that wrote it, the newest first.

    commit 9   "new"       from LATEST, or a memtable
    commit 4   deleted     from HISTORY, which has each version until the commit that replaced it
    commit 2   "old"       the oldest that can be told: it was the value at the horizon

Versions go back as far as commits can be read. The one that is the value at the horizon is told
too, however old it is.
"""

from typing import Final, NamedTuple

from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format.index_keys import NUMBER_END, Stored, history_key, parse_latest
from headwater_server.engine.reads.changes import has_expired
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family

VERSIONS_MAX: Final = 1_000
"""Versions in one page. Each takes a look-up of its commit."""


class KeyVersion(NamedTuple):
    """A version of a key: its commit, and its value; None: the commit deleted the key.

    *expired* says that it did so because the key's time had come.
    """

    commit: int
    value: bytes | None
    expired: bool = False


def key_history(
    state: State, key: bytes, before: int, horizon: int, limit: int
) -> tuple[list[KeyVersion], bool]:
    """The versions of a stored key by commits before one, and whether earlier ones follow."""
    wanted = min(limit, VERSIONS_MAX)
    found: list[KeyVersion] = []
    size = 0
    for version in _versions(state, key, before, wanted + 1):
        if version.commit <= horizon and version.value is None:
            # As if it had never been: garbage collection removes it at any time.
            break
        if len(found) == wanted or (found and size >= PAGE_SIZE_MAX):
            return found, True
        expired = version.value is None and has_expired(state, version.commit, key)
        found.append(KeyVersion(version.commit, version.value, expired))
        size += len(version.value or b"")
        if version.commit <= horizon:
            break
    return found, False


def newest_version(state: State, key: bytes, view: int) -> KeyVersion | None:
    """The version of a stored key at a commit; None: it was never written."""
    for version in _versions(state, key, view + 1, 1):
        return KeyVersion(version.commit, version.value)
    return None


def _versions(state: State, key: bytes, before: int, count: int) -> list[Stored]:
    """At most *count* versions by commits before one, the newest first."""
    # By commit: while a checkpoint runs, a version may be in the memtable and in the files.
    found: dict[int, bytes | None] = {}
    for table in state.memtables():
        version = table.version_at(key, before - 1)
        while version is not None and len(found) < count:
            found.setdefault(version[0], version[1])
            version = version[2]
    if len(found) < count:
        for stored in _in_files(state, key, before, count):
            found.setdefault(stored.commit, stored.value)
    in_order = sorted(found.items(), reverse=True)
    return [Stored(commit, value) for commit, value in in_order[:count]]


def _in_files(state: State, key: bytes, before: int, count: int) -> list[Stored]:
    store = state.files.store
    entry = store.get(Family.LATEST, key)
    if entry is None:
        return []
    found: list[Stored] = []
    newest = parse_latest(entry)
    if newest.commit < before:
        found.append(newest)
    else:
        # The version that was there just before: the first that a later commit has replaced.
        later = store.page(
            Family.HISTORY,
            history_key(key, before),
            history_key(key, NUMBER_END),
            count_max=1,
            size_max=PAGE_SIZE_MAX,
        )
        found += [
            version for each in later.values if (version := parse_latest(each)).commit < before
        ]
    left = count - len(found)
    if left > 0:
        page = store.page(
            Family.HISTORY,
            history_key(key, 0),
            history_key(key, before),
            count_max=left,
            # A page ends by size, and what is missing comes with the next request.
            size_max=2 * PAGE_SIZE_MAX,
            reverse=True,
        )
        found += map(parse_latest, page.values)
    return found
