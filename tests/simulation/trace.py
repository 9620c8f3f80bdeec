"""The trace: a hash of all that happens in a world, and its last lines for who must debug it."""

import hashlib
from collections import Counter, deque
from typing import Any, Final

import trio

_LINES_MAX: Final = 400
"""Lines that are kept of a world that is not watched."""


class Trace:
    """Everything that happens, in order. Two worlds of one seed have the same digest.

    Attributes:
        counts: how often what happened.
        lines: the last ones; all of them if *full*.
    """

    def __init__(self, *, full: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.counts: Counter[str] = Counter()
        self.lines: deque[tuple[float, tuple[Any, ...]]] = deque(
            maxlen=None if full else _LINES_MAX
        )

    def add(self, *what: Any) -> None:
        """Something happened."""
        now = trio.current_time()
        self.counts[what[0]] += 1
        self._hash.update(repr((now, what)).encode())
        self.lines.append((now, what))

    @property
    def digest(self) -> str:
        """What all of it comes to."""
        return self._hash.hexdigest()

    def text(self) -> str:
        """The lines that are kept, cut to a readable width."""
        return "\n".join(f"{now:12.6f}  {what!r:.160}" for now, what in self.lines)
