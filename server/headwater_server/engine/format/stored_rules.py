"""Retention rules as they are stored: one key for each stream that ever had a rule.

retention/rules.py decides what a rule hides.
"""

from typing import Final, NamedTuple

import msgpack


class Rule(NamedTuple):
    """A stream's retention rule.

    Attributes:
        before: events below this version are hidden.
        deleted: the version at which the stream was deleted, 0 if it never was. While this is
            the stream's version, the stream does not exist.
        count_max: how many of the newest events are kept; 0: all.
        age_us_max: microseconds for which an event is kept; 0: forever.
        erased_from: the lowest version that was erased, 0 if none was. Snapshots from this version
            on that were made before `erased_commit` may contain erased data.
        erased_commit: the newest commit that erased an event.
    """

    before: int = 1
    deleted: int = 0
    count_max: int = 0
    age_us_max: int = 0
    erased_from: int = 0
    erased_commit: int = 0

    @property
    def may_hide(self) -> bool:
        """Whether this rule hides events or may hide some in the future."""
        return self.before > 1 or self.deleted > 0 or self.count_max > 0 or self.age_us_max > 0


NO_RULE: Final = Rule()


def encode_rule(rule: Rule) -> bytes:
    """A rule as it is stored."""
    packed: bytes = msgpack.packb(rule)
    return packed


def decode_rule(stored: bytes | None) -> Rule:
    """Decode a stored rule. Members that a newer version added are ignored."""
    return NO_RULE if stored is None else Rule(*msgpack.unpackb(stored)[: len(NO_RULE)])
