"""The part of a checkpoint that writes the versions of keys, and the changes.

An example of a key's chain, with horizon 6 and one read view at 2:

    commit      1     3     4     7     9          written
    chain             a-----b-----c-----d          LATEST 9
    stored      z                      HISTORY z until 3 (the view), b until 7 (7 > 6), c until 9

A version is visible from its own commit until the commit of the next version. The history window
needs it if the next version is above the horizon, and a view needs it if the view lies in between.
Versions that nobody needs are not written at all.

Changes are written after the keys, packed, in the order of commits. If a crash comes in between,
the next attempt finds in LATEST and HISTORY what this one did.

This runs for every version, beside a server that needs the GIL. So entries are built from pieces
that were packed in bulk or once per key. Packing a single number costs as much as all other work
for a version.
"""

from collections.abc import Sequence
from typing import Final

from headwater_server.engine.checkpoint.garbage import is_needed
from headwater_server.engine.checkpoint.sorting import chunks, sorted_parts
from headwater_server.engine.checkpoint.store_batches import StoreBatches
from headwater_server.engine.format.index_keys import (
    CHANGE_EXISTS,
    CHANGE_REPLACED,
    DELETED,
    HEAD_SIZE,
    NUMBER,
    change_end,
    changes_entry_key,
    changes_key,
    history_key,
    history_prefix,
    latest_commit,
)
from headwater_server.engine.pacing import YieldGil
from headwater_server.engine.state.latest_cache import LatestCache
from headwater_server.engine.state.memtable import MemTable, Version
from headwater_server.storage.store.interface import Family, StateStore

CHANGES_MAX: Final = 512
"""Changes in one entry. Garbage collection rereads the last entry of a run in the next run."""

CHANGES_SIZE_MAX: Final = 64 * 1024
"""Bytes above which an entry with several changes is split; keys may be large."""

_LOOKUPS: Final = 64
"""Keys that are looked up in one call and written before the GIL is yielded."""

_NUMBER_SIZE: Final = 8
_LATEST: Final = bytes(Family.LATEST)
_HISTORY: Final = bytes(Family.HISTORY)


class VersionWriter:
    """Writes the versions and the changes of a memtable.

    Args:
        heads: `version_heads` of all commits of the memtable.
        latest: the LATEST cache; entries that this checkpoint writes are added.

    Attributes:
        keys: keys whose newest version was written.
        versions: older versions that were put into HISTORY.
        changes: how many changes garbage collection will examine.
    """

    def __init__(
        self,
        frozen: MemTable,
        store: StateStore,
        batches: StoreBatches,
        heads: bytes,
        latest: LatestCache,
        *,
        horizon: int,
        views: Sequence[int],
        yield_gil: YieldGil,
    ) -> None:
        self._store = store
        self._batches = batches
        self._chains = frozen.chains
        self._first = frozen.base_commit + 1
        self._base_packed = NUMBER.pack(frozen.base_commit)
        self._heads = heads
        self._latest = latest
        self._horizon = horizon
        self._views = views
        self._yield_gil = yield_gil
        # Older versions of the current key that are kept, newest first.
        self._kept_keys: list[bytes] = []
        self._kept: list[bytes] = []
        # The first change of each commit, and the further changes of commits that made several.
        self._changes = [b""] * (frozen.last_commit - frozen.base_commit)
        self._more_changes: dict[int, list[bytes]] = {}
        self._entries = 0
        self.keys = 0
        self.versions = 0
        self.changes = 0

    # Keys.

    def write_keys(self) -> None:
        """Write all versions that are needed, and record the changes."""
        for part in sorted_parts(self._chains, self._yield_gil):
            for keys in chunks(part, _LOOKUPS):
                found = self._latest.found
                missing = [key for key in keys if key not in found]
                stored: dict[bytes, bytes | None] = {}
                if missing:
                    entries = self._store.get_many(Family.LATEST, missing)
                    stored = dict(zip(missing, entries, strict=True))
                for key in keys:
                    known = found.get(key)
                    entry = stored[key] if known is None else known
                    self._batches.end_item(self._write_key(key, entry, known))
                self._yield_gil()

    def _write_key(self, key: bytes, entry: bytes | None, known: bytes | None) -> int:
        """Put all entries of a key whose LATEST entry is *entry*; return their approximate size."""
        commit, value, older = self._chains[key]
        stored = 0
        if entry is not None and entry[:_NUMBER_SIZE] > self._base_packed:
            stored = latest_commit(entry)
            self._note_again(key, stored)
            if commit <= stored:
                # An earlier attempt has written this key.
                return 0
        horizon, views = self._horizon, self._views
        prefix = history_prefix(key)
        # The end of nearly all changes, packed once.
        end = change_end(prefix, CHANGE_EXISTS | CHANGE_REPLACED)
        stored_prefix = _HISTORY + prefix
        looked_at = False
        size = 0
        newer, exists = commit, value is not None
        while older is not None:
            version: Version = older
            replaced, content, older = version
            if replaced <= stored:
                break
            if newer > horizon or is_needed(replaced, newer, horizon, views):
                packed = self._packed(replaced, content)
                size += len(packed)
                looked_at = looked_at or newer == commit
                self._keep(
                    stored_prefix,
                    packed,
                    newer,
                    end if exists else change_end(prefix, CHANGE_REPLACED),
                )
            newer, exists = replaced, content is not None
        if entry is None:
            if newer > horizon:
                self._note_change(newer, change_end(prefix, CHANGE_EXISTS if exists else 0))
        elif newer > horizon or is_needed(latest_commit(entry), newer, horizon, views):
            size += len(entry)
            looked_at = looked_at or newer == commit
            self._keep(
                stored_prefix, entry, newer, end if exists else change_end(prefix, CHANGE_REPLACED)
            )
        if value is None and commit <= horizon:
            if entry is None and not self._kept:
                # The key was created and deleted, and no view can see it.
                return 0
            if not looked_at:
                # Without a change, garbage collection would never remove the deletion.
                self._note_change(commit, change_end(prefix, 0))
        latest = self._packed(commit, value)
        self._batches.keys.append(_LATEST + key)
        self._batches.values.append(latest)
        if value is not None:
            self._latest.put(key, latest, known)
        elif known is not None:
            self._latest.forget(key)
        self._put_kept()
        self.keys += 1
        return size + len(latest)

    def _packed(self, commit: int, value: bytes | None) -> bytes:
        """The stored form of a version that a commit of the memtable wrote."""
        at = HEAD_SIZE * (commit - self._first)
        if value is None:
            return self._heads[at : at + _NUMBER_SIZE] + DELETED
        return self._heads[at : at + HEAD_SIZE] + value

    def _keep(self, prefix: bytes, version: bytes, until: int, end: bytes) -> None:
        """Keep a version until a commit; record the change, of which *end* follows the commit."""
        place = until - self._first
        at = HEAD_SIZE * place
        number = self._heads[at : at + _NUMBER_SIZE]
        self._kept_keys.append(prefix + number)
        self._kept.append(version)
        self._note(place, number + end)

    def _put_kept(self) -> None:
        """Put the older versions of a key, oldest first, in the order of their HISTORY keys."""
        kept_keys, kept = self._kept_keys, self._kept
        if not kept:
            return
        kept_keys.reverse()
        kept.reverse()
        self._batches.later_keys += kept_keys
        self._batches.later_values += kept
        self.versions += len(kept)
        kept_keys.clear()
        kept.clear()

    # Changes.

    def _note_change(self, commit: int, end: bytes) -> None:
        """Record a change; *end* is its part after the commit."""
        place = commit - self._first
        at = HEAD_SIZE * place
        self._note(place, self._heads[at : at + _NUMBER_SIZE] + end)

    def _note(self, place: int, change: bytes) -> None:
        if self._changes[place]:
            self._more_changes.setdefault(place, []).append(change)
        else:
            self._changes[place] = change
        self.changes += 1

    def _note_again(self, key: bytes, stored: int) -> None:
        """Record the changes of a key that an earlier attempt has written."""
        prefix = history_prefix(key)
        version: Version | None = self._chains[key]
        while version is not None:
            commit, value, version = version
            if commit <= stored:
                kept = self._store.get(Family.HISTORY, history_key(key, commit))
                flags = 0 if value is None else CHANGE_EXISTS
                flags |= 0 if kept is None else CHANGE_REPLACED
                self._note_change(commit, change_end(prefix, flags))

    def write_changes(self, *, interrupted: bool) -> None:
        """Write all changes; *interrupted*: an earlier attempt may have written some."""
        if interrupted:
            # The earlier entries may end at other changes. This attempt writes all changes again.
            self._batches.delete_range(Family.CHANGES, changes_key(self._first), None)
        for start in range(0, len(self._changes), CHANGES_MAX):
            changes = [each for each in self._changes[start : start + CHANGES_MAX] if each]
            if self._more_changes:
                changes = self._with_more(start)
            for first in range(0, len(changes), CHANGES_MAX):
                self._put_changes(changes[first : first + CHANGES_MAX])

    def _with_more(self, start: int) -> list[bytes]:
        """All changes of the next CHANGES_MAX commits, in their order."""
        changes: list[bytes] = []
        for place, change in enumerate(self._changes[start : start + CHANGES_MAX], start):
            if change:
                changes.append(change)
                changes += self._more_changes.get(place, ())
        return changes

    def _put_changes(self, changes: list[bytes]) -> None:
        entry = b"".join(changes)
        if len(entry) > CHANGES_SIZE_MAX and len(changes) > 1:
            middle = len(changes) // 2
            self._put_changes(changes[:middle])
            self._put_changes(changes[middle:])
            return
        last = changes[-1][:_NUMBER_SIZE]
        self._batches.put(Family.CHANGES, changes_entry_key(last, self._entries), entry)
        self._entries += 1
        # One batch for each entry: if this is compiled, only the store lets other threads run.
        self._batches.write()
