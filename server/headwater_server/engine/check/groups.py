"""The part of `check` that verifies consumer groups.

Each key must be readable, belong to an existing group, and refer to existing positions. A crash may
have interrupted a checkpoint after some keys of a group were written. Keys of such commits are
skipped, because the log will replay them.
"""

from collections.abc import Iterator
from typing import Final

from headwater_server.engine.check.findings import Counter, Finding, Kind, Report
from headwater_server.engine.consumer_groups.records import number_in_definition, problem_of
from headwater_server.engine.format.index_keys import latest_commit
from headwater_server.engine.format.keyspaces import GROUPS, GROUPS_END
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.store.interface import Family

REMAKE: Final = "none: delete the group and create it again after its last position"

_VALUE_AT: Final = 9
"""Where the value begins in a LATEST entry, after the commit and the flags."""


class GroupCheck:
    """Checks the keys of consumer groups. *last_commit* is the newest that the files may have."""

    def __init__(self, state: StoredState, last_commit: int, report: Report) -> None:
        self._state = state
        self._report = report
        self._whole = last_commit <= state.applied_commit

    def check(self, counter: Counter) -> None:
        """Check every key of every group."""
        numbers = set()
        for key, value in self._entries():
            number = number_in_definition(key, value)
            if number is not None:
                numbers.add(number)
        for key, value in self._entries():
            counter.add(1)
            problem = problem_of(key, value, self._state.applied_position)
            if problem is None and self._whole:
                problem = self._stray(key, numbers)
            if problem is not None:
                what = f"consumer groups, key {key[1:]!r}: {problem}"
                self._report.add(Finding(Kind.GROUP, "state/", None, what, REMAKE))

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        store = self._state.store
        for key, entry in store.scan(Family.LATEST, GROUPS, GROUPS_END):
            # Entries that are too short are reported with the other keys.
            if len(entry) < _VALUE_AT or not entry[8]:
                continue
            if latest_commit(entry) <= self._state.applied_commit:
                yield key, entry[_VALUE_AT:]

    @staticmethod
    def _stray(key: bytes, numbers: set[int]) -> str | None:
        if key[1:2] == b"g":
            return None
        number = int.from_bytes(key[2:10], "big")
        return None if number in numbers else f"it belongs to group {number}, which does not exist"
