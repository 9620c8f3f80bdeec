"""Retention: which events of a stream can still be read, and which are erased.

    stream account-ann, at version 9, with the rule: before 4, at most 5 events

    version     1    2    3    4    5    6    7    8    9
                '-- truncated --'    '-- the newest five --'
                '------ hidden ------'     first = 5

A rule is a versioned key, so a read at any commit follows the rule of that commit, and whoever
read the stream conflicts with who changed it. The first version that can be read never goes
back: each change of a rule begins with what was hidden before it.

An erasure is no rule: from its commit on the event's data and metadata are nil in every read, at
past commits too. Positions of erased events are held in memory, as masks (state/masks.py), until
the event log was rewritten without their data; see rewriting.py.

Reads pay for rules only where they meet a stream that has one. `Retention.hiding` has the names of
all streams whose events a rule may hide, so a read of the log decodes events of these streams and
copies the bytes of all others. An erasure writes a rule too, to refuse snapshots, but it hides
nothing, so its stream is not among them.
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
    """The time until which a commit was the newest; the log's time, if it still is."""
    if view >= state.last_commit:
        return state.time.time
    return state.commit_record(view + 1).time


def first_version(state: State, stream: str, head: Head, version: int, rule: Rule, now: int) -> int:
    """The first version of a stream that can be read while it is at *version*."""
    first = max(rule.before, 1)
    if rule.count_max:
        first = max(first, version - rule.count_max + 1)
    if rule.age_us_max and first <= version:
        first = _first_since(state, stream, head, first, version, now - rule.age_us_max)
    return first


def _first_since(state: State, stream: str, head: Head, first: int, last: int, time: int) -> int:
    """The first version from *first* on that is not from before a time; *last* + 1 if all are."""
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
    # What was removed is older than all that can be read.
    return decode_event(stored).time if stored else 0


class Visibility:
    """Which events can be read at one commit; asked for many events, it looks each stream up once.

    *rule_of* gives the rule of a stream. It may be NO_RULE if the stored one hides nothing.
    """

    __slots__ = ("_first", "_first_by_name", "_now", "_position", "_rule_of", "_state")

    def __init__(
        self,
        state: State,
        position: int,
        *,
        rule_of: Callable[[str], Rule],
        now: int,
    ) -> None:
        self._state = state
        self._position = position
        self._rule_of = rule_of
        self._now = now
        self._first: dict[str, int] = {}
        # The same by the name as it stands in stored events.
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
                first = first_version(self._state, stream, head, version, rule, self._now)
            self._first[stream] = first
        return first

    def snapshot_versions(self, stream: str, view: int) -> tuple[int, int]:
        """The lowest and the highest version of a snapshot that may be read at a commit.

        It must be of the stream's present life, the events after it must be there, and it must not
        hold what was erased since.
        """
        lowest = max(self._rule_of(stream).deleted + 1, self.first(stream) - 1)
        # An erasure counts at past commits too.
        newest = stored_rule(self._state, stream, self._state.last_commit)
        highest = newest.erased_from - 1 if newest.erased_commit > view else NO_LIMIT
        return lowest, highest

    def shows(self, stored: bytes) -> bool:
        """Whether a stored event can be read. Nothing is left of one that was removed."""
        if not stored:
            return False
        name = stream_name(stored)
        first = self._first_by_name.get(name)
        if first is None:
            first = self._first_by_name[name] = self.first(name.decode())
        return first == 1 or decode_event(stored).version >= first


def visibility_at(state: State, view: int, position: int) -> Visibility:
    """What can be read at a commit, whose newest event is at *position*."""
    return Visibility(
        state,
        position,
        rule_of=lambda stream: hiding_rule(state, stream, view),
        now=as_of(state, view),
    )


def stored_rule(state: State, stream: str, view: int) -> Rule:
    """The rule of a stream at a commit."""
    return decode_rule(state.get(keyspaces.retention_key(stream), view))


def hiding_rule(state: State, stream: str, view: int) -> Rule:
    """The rule of a stream at a commit, if it can hide anything; else NO_RULE, mostly unread."""
    if not state.retention.hiding.may_have(stream):
        return NO_RULE
    return stored_rule(state, stream, view)


def is_usable(state: State, snapshot: keyspaces.SnapshotKey, view: int) -> bool:
    """Whether a snapshot that is there at a commit may be read."""
    visibility = visibility_at(state, view, state.position_at(view))
    lowest, highest = visibility.snapshot_versions(snapshot.stream, view)
    return lowest <= snapshot.version <= highest


def is_deleted(state: State, stream: str, version: int) -> bool:
    """Whether a stream that is at *version* now is deleted."""
    if not state.retention.in_use or not version:
        return False
    return hiding_rule(state, stream, state.last_commit).deleted == version


def newest_first_version(state: State, stream: str) -> int:
    """The first version of a stream that can be read now, with all that is numbered."""
    if not state.retention.in_use or not state.retention.hiding.may_have(stream):
        return 1
    return visibility_at(state, state.last_commit, state.last_position).first(stream)
