"""Tells live feeds that get nothing how far they are, some time after a publish.

    publish --after_s--> each live feed:  got an item meanwhile --> looked at again after_s later
                                          got none              --> caught_up, if not told yet

Without publishes there is nothing to tell, and no timer runs.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import trio

from headwater_server.engine.settings import SECOND_US

QUIET_S: Final = 10.0
"""Seconds from a publish until feeds that got nothing of it are told. At most a quarter of the
history window: a feed of keys must not fall out of it because its keys do not change."""

TOLD_PER_TURN_MAX: Final = 256
"""Feeds to look at before connections get their turn."""


def quiet_seconds(history_window_us: int) -> float:
    """Seconds after which quiet feeds are told how far they are."""
    return min(QUIET_S, history_window_us / 4 / SECOND_US)


class QuietFeed(Protocol):
    """The part of a feed that matters here; see Feed."""

    live: bool
    quiet: bool
    told: int
    session: Any

    @property
    def is_open(self) -> bool:
        """Whether pushes are still allowed."""
        ...

    def push(self, payload: list[Any]) -> None:
        """Push a payload."""
        ...


class QuietFeeds:
    """When the live feeds of a source are told how far they are.

    Args:
        after_s: seconds from a publish until feeds that got none of its items are told.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._time = math.inf
        self._left: deque[QuietFeed] = deque()
        self._are_busy = False

    def note_publish(self) -> bool:
        """There is something to tell. Returns whether the timer has started."""
        if self._time != math.inf or self._left:
            return False
        self._time = trio.current_time() + self._after_s
        return True

    @property
    def next_time(self) -> float:
        """When to call `tell`, by trio's clock."""
        return self._time

    @property
    def is_due(self) -> bool:
        """Whether to call `tell` now."""
        return bool(self._left) or trio.current_time() >= self._time

    def tell(self, live: Callable[[], Iterable[QuietFeed]], position: int) -> None:
        """Tell some of the live feeds that they have everything up to a position."""
        if not self._left:
            self._left.extend(live())
            self._time = math.inf
            self._are_busy = False
        for _ in range(min(TOLD_PER_TURN_MAX, len(self._left))):
            feed = self._left.popleft()
            if not feed.is_open or not feed.live:
                continue
            if not feed.quiet:
                feed.quiet = True
                self._are_busy = True
            elif feed.told < position and not feed.session.output_blocked:
                feed.told = position
                feed.push(["caught_up", position])
        if self._are_busy and not self._left:
            # What they got may be the last for long.
            self._time = trio.current_time() + self._after_s
