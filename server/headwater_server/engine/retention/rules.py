"""Retention: which events of a stream can still be read, and which are erased.

    stream account-ann, at version 9, with the rule: before 4, at most 5 events

    version     1    2    3    4    5    6    7    8    9
                '-- truncated --'    '-- the newest five --'
                '------ hidden ------'     first = 5

A rule is a versioned key. So a read at any commit uses the rule of that commit, and a transaction
that read the stream conflicts with one that changed its rule. The first readable version never
decreases: a changed rule keeps hidden what was hidden before.

An erasure is not a rule: from its commit on, the event's data and metadata are nil in every read,
even at past commits. Positions of erased events are kept in memory as masks (state/masks.py) until
the event log is rewritten without their data; see rewriting.py.

Only reads of streams with a rule pay for rules. `Retention.hiding` has the names of all streams
whose events a rule may hide. A read of the log decodes events of these streams and copies all
others. An erasure also changes the rule, to refuse snapshots, but that hides no events, so its
stream is not in `hiding`.
"""

from collections.abc import Callable
from typing import Final

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event, stream_name
from headwater_server.engine.format.stored_rules import NO_RULE, Rule, decode_rule
from headwater_server.engine.state.layers import Head, State

NO_LIMIT: Final = 2**63
"""Above every version of a stream."""


# Which events can be read.


def as_of(state: State, view: int) -> int:
    """The time until which a commit was the newest; the log's time if it still is."""
    if view >= state.last_commit:
        return state.time.time
    return state.commit_record(view + 1).time


def first_version(state: State, stream: str, head: Head, version: int, rule: Rule, now: int) -> int:
    """The first version of a stream that can be read while it is at *version*."""
    first = max(rule.before, 1)
    if rule.count_max:
        first = max(first, version - rule.count_max + 1)
    # Events above the head's version are those of an open transaction, which have no age yet.
    last = min(version, head.version)
    if rule.age_us_max and first <= last:
        first = _first_since(state, stream, head, first, last, now - rule.age_us_max)
    return first


def _first_since(state: State, stream: str, head: Head, first: int, last: int, time: int) -> int:
    """The first version from *first* on that is not older than a time; *last* + 1 if all are."""
    if _time_of(state, stream, head, first) >= time:
        return first
    low, high = first, last + 1
    while low + 1 < high:
        middle = (low + high) // 2
        if _time_of(state, stream, head, middle) >= time:
            high = middle
        else:
            low = middle
    return high


def _time_of(state: State, stream: str, head: Head, version: int) -> int:
    stored = state.events(state.stream_positions(stream, head, version, version))[0]
    # Removed events are older than all readable ones.
    return decode_event(stored).time if stored else 0


class Visibility:
    """Which events can be read at one commit. It looks up each stream only once.

    *rule_of* returns the rule of a stream. It may return NO_RULE if the stored rule hides nothing.
    *own* returns how many events an open transaction appends to a stream: they push out others.
    """

    __slots__ = ("_first", "_first_by_name", "_now", "_own", "_position", "_rule_of", "_state")

    def __init__(
        self,
        state: State,
        position: int,
        *,
        rule_of: Callable[[str], Rule],
        now: int,
        own: Callable[[str], int] | None = None,
    ) -> None:
        self._state = state
        self._own = own
        self._position = position
        self._rule_of = rule_of
        self._now = now
        self._first: dict[str, int] = {}
        # The same, by the encoded name of stored events.
        self._first_by_name: dict[bytes, int] = {}

    def first(self, stream: str) -> int:
        """The first version of a stream that can be read."""
        first = self._first.get(stream)
        if first is None:
            rule = self._rule_of(stream)
            if not rule.may_hide:
                first = 1
            else:
                head = self._state.head(stream)
                version = self._state.version_at(stream, head, self._position)
                if self._own is not None:
                    version += self._own(stream)
                first = first_version(self._state, stream, head, version, rule, self._now)
            self._first[stream] = first
        return first

    def snapshot_versions(self, stream: str, view: int) -> tuple[int, int]:
        """The lowest and the highest version of a snapshot that may be read at a commit.

        The snapshot must be newer than the stream's last deletion, the events after it must be
        readable, and it must not contain data that was erased since.
        """
        lowest = max(self._rule_of(stream).deleted + 1, self.first(stream) - 1)
        # Erasures apply at past commits too.
        newest = stored_rule(self._state, stream, self._state.last_commit)
        highest = newest.erased_from - 1 if newest.erased_commit > view else NO_LIMIT
        return lowest, highest

    def shows(self, stored: bytes) -> bool:
        """Whether a stored event can be read. A removed event is empty."""
        if not stored:
            return False
        name = stream_name(stored)
        first = self._first_by_name.get(name)
        if first is None:
            first = self._first_by_name[name] = self.first(name.decode())
        return first == 1 or decode_event(stored).version >= first


def visibility_at(
    state: State, view: int, position: int, own: Callable[[str], int] | None = None
) -> Visibility:
    """Which events can be read at a commit whose newest event is at *position*."""
    return Visibility(
        state,
        position,
        rule_of=lambda stream: hiding_rule(state, stream, view),
        now=as_of(state, view),
        own=own,
    )


def stored_rule(state: State, stream: str, view: int) -> Rule:
    """The rule of a stream at a commit."""
    return decode_rule(state.get(keyspaces.retention_key(stream), view))


def hiding_rule(state: State, stream: str, view: int) -> Rule:
    """The rule of a stream at a commit if it may hide anything, else NO_RULE without a read."""
    if not state.retention.hiding.may_have(stream):
        return NO_RULE
    return stored_rule(state, stream, view)


def is_usable(state: State, snapshot: keyspaces.SnapshotKey, view: int) -> bool:
    """Whether a snapshot that exists at a commit may be read."""
    visibility = visibility_at(state, view, state.position_at(view))
    lowest, highest = visibility.snapshot_versions(snapshot.stream, view)
    return lowest <= snapshot.version <= highest


def is_deleted(state: State, stream: str, version: int, view: int | None = None) -> bool:
    """Whether a stream that is at *version* is deleted, at a commit or in the newest state."""
    if not state.retention.in_use or not version:
        return False
    view = state.last_commit if view is None else view
    return hiding_rule(state, stream, view).deleted == version


def newest_first_version(state: State, stream: str) -> int:
    """The first version of a stream that can be read in the newest state, durable or not."""
    if not state.retention.in_use or not state.retention.hiding.may_have(stream):
        return 1
    return visibility_at(state, state.last_commit, state.last_position).first(stream)
