"""Masks: what the state must know in memory about hidden and erased events.

There are two parts. The names of the streams whose events a rule may hide: reads of other streams
pay nothing for rules. And the positions of erased events, whose data is masked until the event log
is rewritten without it. retention/rules.py decides what a rule hides.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import erase_event
from headwater_server.engine.format.stored_rules import decode_rule
from headwater_server.engine.state.name_filter import NameFilter


class Retention:
    """Hidden streams and erased events.

    Attributes:
        in_use: whether any stream ever had a rule, or an event erased.
        hiding: streams of which some events may be hidden at some commit, unpublished commits
            included. Hidden events stay hidden, so a stream whose rule hides nothing now hides
            nothing at past commits either.
        has_ages: whether any rule ever had an age, so that time changes what can be read.
        masked: positions of erased events whose data may still be in the log, each with the commit
            that erased it.
        pending: erasures that are sequenced but not published: commit and position.
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
        """Load the rules and erasures of the files: each is a key, its commit and its value."""
        for key, _, value in rules:
            self._note_rule(key, value)
        for key, commit, value in erasures:
            if value is not None:
                self.masked[keyspaces.erased_position(key)] = commit

    def note(self, commit: int, writes: Sequence[bytes | None]) -> None:
        """Record the rules and erasures of an applied commit."""
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
        """The stored events at positions; erased events lose their data."""
        masked = self.masked
        return [
            erase_event(event) if position in masked and event else event
            for position, event in zip(positions, stored, strict=True)
        ]
