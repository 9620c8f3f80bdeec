"""Distinct types for the numbers of a database, so that they are not mixed up."""

from typing import Final, NewType

CommitNumber = NewType("CommitNumber", int)
"""1, 2, 3 … without gaps: the number of a commit. 0 is before the first."""

Position = NewType("Position", int)
"""1, 2, 3 … without gaps: the number of an event among all events, in commit order."""

StreamVersion = NewType("StreamVersion", int)
"""The number of events ever appended to a stream; its n-th event has version n."""

TERM_SHIFT: Final = 32
"""Bits of an epoch that count the starts of one leader. The bits above count promotions, so that an
old leader that was restarted many times is still behind the node that was promoted."""

NO_STREAM: Final = 0
"""Expected version of a stream without events."""

ANY: Final = -1
"""Any version is expected."""

STREAM_EXISTS: Final = -2
"""Any version above 0 is expected."""


def term_of(epoch: int) -> int:
    """How many promotions there were up to an epoch."""
    return epoch >> TERM_SHIFT
