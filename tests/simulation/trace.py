"""The trace: a hash of everything that happens in a world, and its last lines for debugging."""

import hashlib
from collections import Counter, deque
from typing import Any, Final

import trio

_LINES_MAX: Final = 400
"""Lines that are kept unless the full trace is requested."""


class Trace:
    """Everything that happens, in order. Two worlds of one seed have the same digest.

    Attributes:
        counts: how often each kind of event happened.
        lines: the last lines; all lines if *full*.
    """

    def __init__(self, *, full: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.counts: Counter[str] = Counter()
        self.lines: deque[tuple[float, tuple[Any, ...]]] = deque(
            maxlen=None if full else _LINES_MAX
        )

    def add(self, *what: Any) -> None:
        """Record an event."""
        now = trio.current_time()
        self.counts[what[0]] += 1
        self._hash.update(repr((now, what)).encode())
        self.lines.append((now, what))

    @property
    def digest(self) -> str:
        """The hash of all events."""
        return self._hash.hexdigest()

    def text(self) -> str:
        """The kept lines, cut to a readable width."""
        return "\n".join(f"{now:12.6f}  {what!r:.160}" for now, what in self.lines)
