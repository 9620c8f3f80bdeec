"""Which keys of a range were written after a commit.

    by key       the range's keys, each with the commit that wrote it last     LATEST, chains
    by commit    the commits since, each with the keys that it wrote           CHANGES, written

Either index answers the question. Which one is cheaper depends on the size of the range and on the
number of commits since, and neither is known. So both are read in alternation until one ends. That
costs at most twice the cheaper one. The changes that were read by commit are kept sorted by key and
serve all further ranges of the same transaction, at two searches each.

Commits that are sequenced but not yet durable count.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import Final

from headwater_server.engine.state.layers import State
from headwater_server.engine.state.memtable import MemTable
from headwater_server.engine.work_budget import WorkBudget

FEW: Final = 64
"""Keys that are read from one index before the other gets its turn."""


class ChangedKeys:
    """The keys that were written after one commit."""

    def __init__(self, state: State, after: int, budget: WorkBudget) -> None:
        self._state = state
        self._after = after
        self._budget = budget
        self._in_tables: dict[int, list[bytes]] = {}
        self._in_files = _InFiles(state, after, budget)

    def in_range(self, start: bytes, end: bytes) -> tuple[bytes, int] | None:
        """A key of [start, end) that was written since, with the commit that wrote it, or None.

        If that commit is before the horizon, this may miss a key that was created and deleted
        before the horizon. This is harmless: a transaction that read the key as absent was right.

        Raises:
            TooLarge: the search exceeds the budget.
        """
        for table in self._state.memtables():
            if self._after >= table.last_commit:
                return None
            found = self._find_in_table(table, start, end)
            if found is not None:
                return found
        if self._after >= self._state.files.applied_commit:
            return None
        return self._in_files.find(start, end)

    def _find_in_table(self, table: MemTable, start: bytes, end: bytes) -> tuple[bytes, int] | None:
        keys = table.first_keys(start, end, FEW)
        self._budget.spend(keys=len(keys))
        for key in keys:
            newest = table.chains[key][0]
            if newest > self._after:
                return key, newest
        if len(keys) < FEW:
            return None
        changed = self._changed_in_table(table)
        place = bisect_left(changed, start)
        if place == len(changed) or changed[place] >= end:
            return None
        return changed[place], table.chains[changed[place]][0]

    def _changed_in_table(self, table: MemTable) -> list[bytes]:
        """The keys that a memtable's commits have written since, in order."""
        changed = self._in_tables.get(table.base_commit)
        if changed is None:
            keys: set[bytes] = set()
            for commit in range(max(self._after, table.base_commit) + 1, table.last_commit + 1):
                writes = table.writes_of(commit)
                self._budget.spend(keys=1 + len(writes) // 2)
                keys.update(key for key in writes[::2] if key is not None)
            changed = self._in_tables[table.base_commit] = sorted(keys)
        return changed


class _InFiles:
    """The same for the files, as of the last checkpoint."""

    def __init__(self, state: State, after: int, budget: WorkBudget) -> None:
        self._files = state.files
        self._after = after
        self._budget = budget
        self._changes: Iterator[tuple[int, bytes]] = self._files.changes_after(after)
        self._changes_count = 0
        self._keys_count = 0
        self._changes_are_over = False
        self._changed: list[bytes] = []
        self._commits: dict[bytes, int] = {}

    def find(self, start: bytes, end: bytes) -> tuple[bytes, int] | None:
        # CHANGES has all commits from the horizon on, and no earlier ones.
        has_changes = self._after >= self._files.horizon
        by_key: Iterator[tuple[bytes, int]] | None = None
        step = FEW
        while True:
            # The changes serve all ranges, so compare their cost with that of all ranges.
            if has_changes and self._changes_count <= self._keys_count:
                self._read_changes(step)
            place = bisect_left(self._changed, start)
            if place < len(self._changed) and self._changed[place] < end:
                key = self._changed[place]
                # LATEST has no entry if the key's deletion was garbage-collected since.
                return key, max(self._commits[key], self._files.newest_commit(key))
            if self._changes_are_over:
                return None
            if by_key is None:
                by_key = self._files.newest_commits(start, end)
            keys = list(islice(by_key, step))
            self._keys_count += len(keys)
            self._budget.spend(keys=len(keys))
            for key, commit in keys:
                if commit > self._after:
                    return key, commit
            if len(keys) < step:
                return None
            step *= 2

    def _read_changes(self, count: int) -> None:
        changes = list(islice(self._changes, count))
        self._changes_are_over = len(changes) < count
        self._changes_count += len(changes)
        self._budget.spend(keys=len(changes))
        for commit, key in changes:
            if key not in self._commits:
                self._changed.append(key)
            self._commits[key] = commit
        self._changed.sort()
