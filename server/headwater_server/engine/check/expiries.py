"""The part of `check` that verifies the expiries of keys.

An expiry is stored twice, by key and by time, and only for keys that exist. A crash may have
interrupted a checkpoint that wrote one of these. Keys of such commits are skipped, because the log
will replay them.
"""

from collections.abc import Iterator
from typing import Final

from headwater_server.engine.check.findings import Counter, Finding, Kind, Report
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.index_keys import latest_commit
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.store.interface import Family

PUT_AGAIN: Final = "none: put the key again, or delete it"

_VALUE_AT: Final = 9
"""Where the value begins in a LATEST entry, after the commit and the flags."""

_TIME_SIZE: Final = 8


class ExpiryCheck:
    """Checks the expiries of keys. *last_commit* is the newest that the files may have."""

    def __init__(self, state: StoredState, last_commit: int, report: Report) -> None:
        self._state = state
        self._report = report
        self._whole = last_commit <= state.applied_commit

    def check(self, counter: Counter) -> None:
        """Check every expiry."""
        for key, value in self._entries(keyspaces.EXPIRIES, keyspaces.EXPIRIES_END):
            counter.add(1)
            user_key = keyspaces.USER + key[1:]
            if len(value) != _TIME_SIZE:
                self._add(user_key, f"its expiry has {len(value)} bytes instead of {_TIME_SIZE}")
                continue
            due_key = keyspaces.due_key(keyspaces.parse_expiry(value), user_key)
            if self._is_absent(user_key):
                self._add(user_key, "it is absent and has an expiry")
            elif self._is_absent(due_key):
                self._add(user_key, "it has an expiry and is not among the keys that are due")
        for key, _ in self._entries(keyspaces.DUE, keyspaces.DUE_END):
            counter.add(1)
            if len(key) <= 1 + _TIME_SIZE:
                self._add(key, "a due key that is too short")
                continue
            time, user_key = keyspaces.parse_due_key(key)
            found = self._state.value_at(keyspaces.expiry_key(user_key), self._state.applied_commit)
            if self._whole and found != keyspaces.pack_expiry(time):
                self._add(user_key, "it is among the keys that are due, with another expiry")

    def _is_absent(self, key: bytes) -> bool:
        applied = self._state.applied_commit
        return self._whole and self._state.value_at(key, applied) is None

    def _add(self, key: bytes, problem: str) -> None:
        what = f"key {key[1:]!r}: {problem}"
        self._report.add(Finding(Kind.EXPIRY, "state/", None, what, PUT_AGAIN))

    def _entries(self, first: bytes, last: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, entry in self._state.store.scan(Family.LATEST, first, last):
            # Entries that are too short are reported with the other keys.
            if len(entry) < _VALUE_AT or not entry[8]:
                continue
            if latest_commit(entry) <= self._state.applied_commit:
                yield key, entry[_VALUE_AT:]
