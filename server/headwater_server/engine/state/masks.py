"""Masks: what retention hides of the events in the files, as the state has to know it.

This is kept in memory for as long as the database is open: the names of the streams whose events a
rule may hide, so that reads of all others pay nothing for rules, and the positions of erased
events, whose data is masked until the event log was rewritten without it. What a rule hides is
decided in retention/rules.py.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import erase_event
from headwater_server.engine.format.stored_rules import decode_rule
from headwater_server.engine.state.name_filter import NameFilter


class Retention:
    """The part of the state that hides and masks.

    Attributes:
        in_use: whether any stream ever had a rule, or an event erased.
        hiding: streams whose events may be hidden, at any commit, numbered ones among them. What a
            rule hides stays hidden, so a stream whose rule hides nothing now hides nothing at
            past commits either.
        has_ages: whether any rule ever had an age, so that what can be read changes with time.
        masked: positions of erased events whose data may still be in the log, with the commit.
        pending: erasures that are numbered and not published: commit and position.
    """

    __slots__ = ("has_ages", "hiding", "in_use", "masked", "pending")

    def __init__(self) -> None:
        self.in_use = False
        self.hiding = NameFilter()
        self.masked: dict[int, int] = {}
        self.pending: deque[tuple[int, int]] = deque()
        self.has_ages = False

    def load(
        self,
        rules: Iterable[tuple[bytes, int, bytes | None]],
        erasures: Iterable[tuple[bytes, int, bytes | None]],
    ) -> None:
        """Begin with the rules and erasures of the files: each a key, its commit and its value."""
        for key, _, value in rules:
            self._note_rule(key, value)
        for key, commit, value in erasures:
            if value is not None:
                self.masked[keyspaces.erased_position(key)] = commit

    def note(self, commit: int, writes: Sequence[bytes | None]) -> None:
        """Take in a commit that is applied, whose last key is one of ours."""
        for place in range(len(writes) - 2, -1, -2):
            key, value = writes[place], writes[place + 1]
            assert key is not None
            if key < keyspaces.RETENTION:
                return
            if key < keyspaces.RETENTION_END:
                self._note_rule(key, value)
            elif value is not None:
                self.pending.append((commit, keyspaces.erased_position(key)))

    def _note_rule(self, key: bytes, value: bytes | None) -> None:
        self.in_use = True
        rule = decode_rule(value)
        if rule.age_us_max:
            self.has_ages = True
        if rule.may_hide:
            self.hiding.add(keyspaces.stream_of_rule(key))

    def publish(self, commit: int) -> None:
        """Mask what commits up to this one have erased."""
        while self.pending and self.pending[0][0] <= commit:
            number, position = self.pending.popleft()
            self.masked[position] = number

    def mask(self, positions: Iterable[int], stored: list[bytes]) -> list[bytes]:
        """The stored events at positions, those that are erased without their data."""
        masked = self.masked
        return [
            erase_event(event) if position in masked and event else event
            for position, event in zip(positions, stored, strict=True)
        ]
