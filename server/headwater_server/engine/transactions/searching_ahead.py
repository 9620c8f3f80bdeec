"""Searching ahead: conditions that take too long for one stretch are searched page by page.

    log     |----- searched ahead, in pages; others are served in between -----|-- new --|
          after                                                             proven    newest
                                                                               the commit looks here

Events never change, and a hidden one stays hidden. So if no event up to a position matches, none
ever will, and when the request is evaluated only later events remain to be looked at. A search that
finds a match stops in front of it, and the evaluation finds it at once.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader


class SearchesAhead:
    """The searches for the conditions of one request.

    Attributes:
        proven: for each filter and position of a condition, up to where no event matches.
    """

    def __init__(
        self,
        reader: Callable[[], Reader],
        conditions: list[list[Any]],
        writes: list[list[Any]],
    ) -> None:
        """*reader* reads the newest commit in small pages; the rest is as in the request."""
        self._reader = reader
        self.proven: dict[tuple[EventFilter, int], int] = {}
        for condition in conditions:
            if condition[0] == "no_events":
                self._add(condition[1], condition[2])
        for write in writes:
            if write[0] == "append" and len(write) > 4 and write[4] is not None:
                self._add(write[4], write[5] if len(write) > 5 else 0)
        self._left = deque(self.proven)

    def _add(self, members: dict[str, Any], after: int) -> None:
        self.proven[EventFilter.from_wire(members), after] = after

    def step(self) -> bool:
        """Search one page further; return whether all searches are over."""
        if not self._left:
            return True
        wanted, after = self._left[0]
        page = self._reader().read_all(self.proven[wanted, after], wanted, 1, reverse=False)
        if page.events:
            self.proven[wanted, after] = decode_event(page.events[0]).position - 1
        else:
            self.proven[wanted, after] = page.position
        if page.events or not page.more:
            self._left.popleft()
        return not self._left
