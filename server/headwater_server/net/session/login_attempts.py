"""Failed log-ins: a delay that grows by address and by name, and one log line for a burst.

After three failures, the proof of the next attempt is looked at only after a delay. The delay
doubles with each further failure, up to a bound. So whoever guesses gets a few guesses a minute
from an address, over however many connections.

The bound for a name is lower than the one for an address: somebody else's failures must not lock a
user out for long. Those who wait do so one after the other, and a log-in has a time limit, so
guessers at the same address or name could take every turn. Therefore a name that has not failed at
an address waits there for one delay at most, counted from its own arrival, and one that has logged
in from there does not wait at all. Both hold until it has failed there itself.

A log-in forgets the failures of its own name. Failures are also forgotten after a quiet time, and
the number of addresses and names that are remembered is bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FREE_FAILURES: Final = 3
"""Failures without a delay: a mistyped password, and a program that tries again."""

DELAY_S_MIN: Final = 0.1
"""Seconds of the first delay. Each further failure doubles it."""

ADDRESS_DELAY_S_MAX: Final = 5.0
"""Seconds of the longest delay for an address: twelve guesses a minute."""

NAME_DELAY_S_MAX: Final = 1.0
"""Seconds of the longest delay for a name, at whatever address. It also delays the user."""

FORGOTTEN_AFTER_S: Final = 60.0
"""A quiet time after which failures are forgotten."""

REMEMBERED_MAX: Final = 10_000
"""Addresses and names whose failures are remembered. The oldest failures are forgotten first."""

_HERE: Final = "a name at an address"

BURST_S: Final = 10.0
"""Seconds in which events of one kind and address are logged once."""


@dataclass(slots=True)
class _Failures:
    count: int
    last: float


class LoginAttempts:
    """Remembers failed log-ins. Times are seconds of *monotonic*."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # By address, by name, and by both. In order of the last failure.
        self._failures: dict[tuple[str, ...], _Failures] = {}
        # Addresses with the names that have logged in there, in order of the last time.
        self._succeeded: dict[tuple[str, str], None] = {}

    def wait_s(self, address: str, name: str, arrived: float) -> float:
        """Seconds until a proof that arrived at that time may be looked at; 0: now."""
        if (address, name) in self._succeeded:
            return 0.0
        longest = 0.0
        now = self._monotonic()
        failed_here = self._recent((address, name, _HERE)) is not None
        for key, bound in self._keys(address, name):
            known = self._failures.get(key)
            if known is not None and known.count >= FREE_FAILURES:
                delay: float = min(bound, DELAY_S_MIN * 2 ** min(known.count - FREE_FAILURES, 20))
                since = known.last if failed_here else min(known.last, arrived)
                longest = max(longest, since + delay - now)
        return longest

    def _recent(self, key: tuple[str, ...]) -> _Failures | None:
        known = self._failures.get(key)
        if known is None or self._monotonic() - known.last > FORGOTTEN_AFTER_S:
            return None
        return known

    def failed(self, address: str, name: str) -> None:
        """An attempt failed."""
        now = self._monotonic()
        keys = [key for key, _ in self._keys(address, name)]
        for key in (*keys, (address, name, _HERE)):
            known = self._recent(key) or _Failures(0, now)
            self._failures.pop(key, None)
            known.count += 1
            known.last = now
            self._failures[key] = known
        if self._failures[address, name, _HERE].count >= FREE_FAILURES:
            self._succeeded.pop((address, name), None)
        while len(self._failures) > REMEMBERED_MAX:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, address: str, name: str) -> None:
        """A log-in succeeded: forget the failures of its name before it."""
        self._succeeded.pop((address, name), None)
        self._succeeded[address, name] = None
        if len(self._succeeded) > REMEMBERED_MAX:
            del self._succeeded[next(iter(self._succeeded))]
        of_address, of_name = [key for key, _ in self._keys(address, name)]
        self._failures.pop(of_name, None)
        here = self._failures.pop((address, name, _HERE), None)
        known = self._failures.get(of_address)
        # Keep the failures of other names. Otherwise the owner of one password could guess others.
        if known is None or here is None or self._monotonic() - here.last > FORGOTTEN_AFTER_S:
            return
        known.count -= here.count
        if known.count <= 0:
            del self._failures[of_address]

    @staticmethod
    def _keys(address: str, name: str) -> tuple[tuple[tuple[str, str], float], ...]:
        return (("address", address), ADDRESS_DELAY_S_MAX), (("name", name), NAME_DELAY_S_MAX)


class Bursts:
    """Lets one of many equal log lines through, and counts the others."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, _Failures] = {}

    def admit(self, key: str) -> int | None:
        """How many lines were left out since the last one; None: leave this one out."""
        now = self._monotonic()
        known = self._seen.get(key)
        if known is not None and now - known.last < BURST_S:
            known.count += 1
            return None
        self._seen.pop(key, None)
        self._seen[key] = _Failures(0, now)
        if len(self._seen) > REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]
        return 0 if known is None else known.count


def address_of(peer: str) -> str:
    """The address of a peer without its port."""
    host, colon, port = peer.rpartition(":")
    return host if colon and port.isdigit() else peer
