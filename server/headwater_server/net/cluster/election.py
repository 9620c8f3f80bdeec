"""When a follower claims the log: if no entry came for a while, although the stream answers.

    entry   entry   .         .         .         .      claim
    |-0.5 s-|------ 2.5 s + 0 to 0.5 s ------------------|
                ^ lease of the leader ends 2.0 s after it sent its newest entry

A leader sends an entry every 0.5 s. The lease began when the newest one was sent, and a follower
counts from when it saw it, which is later. So the lease is over before anybody claims, by half a
second, which allows for clocks that run at different speeds.

While the stream does not answer, the leader cannot send either: that is an election among the NATS
servers, which must not cause one of ours. The time begins again when the stream answers.
"""

import random as random_module
from collections.abc import Callable
from typing import Final

from headwater_server.storage.jetstream.cluster_log import LEASE_S

CLAIM_AFTER_S: Final = 2.5
"""Seconds without an entry after which a follower claims."""

CLAIM_SPREAD_S: Final = 0.5
"""Up to so much is added, drawn for each wait, so that two followers seldom claim at once."""

RESIGNED_S: Final = 5.0
"""Seconds for which a node that resigned lets others claim first."""

assert CLAIM_AFTER_S > LEASE_S, "the lease is over before anybody claims"


class Election:
    """The wait of a follower."""

    def __init__(self, clock: Callable[[], float], random: random_module.Random) -> None:
        self._clock = clock
        self._random = random
        self._quiet_since = clock()
        self._patience_s = 0.0
        self.seen()

    def seen(self) -> None:
        """An entry came, or a claim failed: wait from now on."""
        self._quiet_since = self._clock()
        self._patience_s = CLAIM_AFTER_S + self._random.random() * CLAIM_SPREAD_S

    def silent(self) -> None:
        """The stream did not answer."""
        self._quiet_since = max(self._quiet_since, self._clock())

    def resigned(self) -> None:
        """The leader gave its lease back: claim at once."""
        self._patience_s = 0.0

    def hold_back(self) -> None:
        """This node resigned: let others claim first."""
        self._patience_s = CLAIM_AFTER_S + RESIGNED_S

    @property
    def is_due(self) -> bool:
        """Whether to claim now."""
        return self._clock() - self._quiet_since >= self._patience_s
