"""Rules of retention as they are stored: one key for each stream that ever had a rule.

What a rule hides is decided in retention/rules.py.
"""

from typing import Final, NamedTuple

import msgpack


class Rule(NamedTuple):
    """What is kept of a stream.

    Attributes:
        before: events below this version are hidden.
        deleted: the version at which the stream was deleted, 0 if it never was. As long as it
            is the stream's version, there is no such stream.
        count_max: events that are kept, the newest; 0: all.
        age_us_max: microseconds for which an event is kept; 0: for ever.
        erased_from: the lowest version that was erased, 0 if none was. Snapshots from it on that
            were made before `erased_commit` hold what was erased.
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
        """Whether events are hidden by it, or can become hidden while it stands."""
        return self.before > 1 or self.deleted > 0 or self.count_max > 0 or self.age_us_max > 0


NO_RULE: Final = Rule()


def encode_rule(rule: Rule) -> bytes:
    """A rule as it is stored."""
    packed: bytes = msgpack.packb(rule)
    return packed


def decode_rule(stored: bytes | None) -> Rule:
    """A rule, from how it is stored. A newer version may have added to it."""
    return NO_RULE if stored is None else Rule(*msgpack.unpackb(stored)[: len(NO_RULE)])
