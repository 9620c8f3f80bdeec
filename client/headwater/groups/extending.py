"""Leases that are extended while handlers work.

    a handler begins --> add     every third of the lease: one request for all that are in work
    it has ended     --> remove

A handler may work for longer than the lease, and if its process dies, another consumer has the
event after one lease. Whatever works for longer than WORK_S_MAX is not extended any more: it may
wait for something that never comes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headwater.errors import HeadwaterError, NoSuchGroup
from headwater.groups.delivery import Delivery
from headwater.transport.channel import Channel

log = logging.getLogger("headwater")

WORK_S_MAX: Final = 3600.0
"""Seconds for which the lease of an event is extended."""

EXTENDED_PER_LEASE: Final = 3
"""How often a lease is extended in the time that it lasts, so that two requests may fail."""

PAUSE_S_MIN: Final = 0.02
"""Seconds between two requests at least; the shortest lease lasts 100 ms."""


class Working:
    """The deliveries of one group that are being worked on. Threads may share it.

    Attributes:
        pause_s: seconds until the next request.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self.pause_s = PAUSE_S_MIN
        self._known_lease = False
        self._since: dict[Delivery, float] = {}

    @contextmanager
    def on(self, delivery: Delivery, now: float) -> Iterator[None]:
        """A delivery is worked on while the block runs; *now* is of the runtime's clock."""
        self._since[delivery] = now
        try:
            yield
        finally:
            self._since.pop(delivery, None)

    async def extend(self, channel: Channel) -> None:
        """Extend what is in work, and learn how long a lease lasts.

        Raises:
            NoSuchGroup: the group was deleted.
        """
        now = channel.runtime.now()
        # A copy, because another thread may add one.
        held = [
            delivery
            for delivery, since in list(self._since.items())
            if now - since < WORK_S_MAX and not delivery.settled and not delivery.lost
        ]
        if not held and self._known_lease:
            return
        try:
            if not held:
                lease_ms = (await channel.read("group_info", self.group))["lease_ms"]
                lost: list[int] = []
            else:
                claims = [delivery.claim for delivery in held]
                lease_ms, lost = (await channel.read("group_extend", self.group, claims))[:2]
        except NoSuchGroup:
            raise
        except HeadwaterError as error:
            log.warning("leases of group %s: %s; trying again", self.group, error)
            return
        self._known_lease = True
        self.pause_s = max(PAUSE_S_MIN, lease_ms / 1000 / EXTENDED_PER_LEASE)
        tokens = set(lost)
        for delivery in held:
            # A handler that has ended since has settled it, so its token is not known any more.
            if delivery.token in tokens and not delivery.settled and delivery in self._since:
                delivery.lost = True
