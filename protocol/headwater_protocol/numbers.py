"""The numbers that a database gives, as types of their own so that they are not mixed up."""

from typing import Final, NewType

CommitNumber = NewType("CommitNumber", int)
"""1, 2, 3 … without gaps, one for each transaction that wrote. 0 is before the first."""

Position = NewType("Position", int)
"""1, 2, 3 … without gaps, one for each event, over all streams, in commit order."""

StreamVersion = NewType("StreamVersion", int)
"""The number of events ever appended to a stream; its n-th event has version n."""

NO_STREAM: Final = 0
"""Expect that the stream has no events."""

ANY: Final = -1
"""Expect nothing of the stream."""

STREAM_EXISTS: Final = -2
"""Expect that the stream has at least one event."""
