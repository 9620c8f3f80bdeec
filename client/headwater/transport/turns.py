"""Turns: the transactions of one client that conflict on a name wait for each other in line.

    run A   read k, commit ------------------> ok, leaves
    run B   read k, commit -> conflict on k -> enters the line of k, waits -> read k, commit -> ok
    run C   reads k for the first time: there is a line, so it enters it before it begins

Without lines all of them would try again at once, and all but one would conflict again. A name is
a key or a stream. Lines only save work: the server still checks every commit, other clients are not
in line, and who does not move for TURN_S_MAX is passed by.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

TURN_S_MAX: Final = 1.0
"""Seconds after which the first of a line is passed by: its function waits for something else."""

NAMES_MAX: Final = 16
"""Names that one transaction waits for. With more, waiting would take longer than trying."""

Name = bytes | str
"""An encoded key, or the name of a stream."""


class Bell(Protocol):
    """Wakes one task, once."""

    def ring(self) -> None:
        """Wake the task, now or when it begins to wait."""

    async def wait(self, seconds: float) -> bool:
        """Wait for the ring. Returns False if it did not come within *seconds*."""
        ...


class Turns:
    """The lines of a client, by name."""

    def __init__(self, bell: Callable[[], Bell]) -> None:
        self._bell = bell
        self._lines: dict[Name, deque[Bell]] = {}
        # Held for moments. Reentrant, because a signal handler may use the database, too.
        self._lock = threading.RLock()

    def has_line(self, name: Name) -> bool:
        """Whether somebody has or waits for the turn of *name*."""
        return name in self._lines

    async def enter(self, name: Name) -> Bell:
        """Enter the line of *name*, and wait for the turn. `leave` ends it."""
        bell = self._bell()
        with self._lock:
            line = self._lines.setdefault(name, deque())
            line.append(bell)
            first = line[0]
        try:
            while first is not bell:
                rang = await bell.wait(TURN_S_MAX)
                with self._lock:
                    if not rang and line[0] is first:
                        line.popleft()
                        if line[0] is not bell:
                            line[0].ring()
                    first = line[0]
        except BaseException:
            self.leave(name, bell)
            raise
        return bell

    def leave(self, name: Name, bell: Bell) -> None:
        """Leave the line, whether the turn has come or not."""
        with self._lock:
            line = self._lines.get(name, deque())
            if bell not in line:
                return  # It was passed by.
            was_first = line[0] is bell
            line.remove(bell)
            if not line:
                del self._lines[name]
            elif was_first:
                line[0].ring()


class Turn:
    """The names whose turn one attempt has."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._held: list[tuple[Name, Bell]] = []

    async def enter(self, names: Iterable[Name]) -> None:
        """Wait for the turn of each name. All attempts wait in the same order of names."""
        for name in sorted(names, key=lambda each: (isinstance(each, str), each)):
            self._held.append((name, await self._turns.enter(name)))

    async def enter_line(self, name: Name) -> None:
        """Wait for the turn of *name* if there is a line, and this attempt has no turn yet."""
        # With a turn already, waiting for another one could be a deadlock.
        if not self._held and self._turns.has_line(name):
            await self.enter([name])

    def leave(self) -> None:
        """Leave all lines."""
        while self._held:
            self._turns.leave(*self._held.pop())
