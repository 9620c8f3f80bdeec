"""Strangers: connections that have not finished hello and authentication, counted by address.

They are bounded by address and in all. So whoever opens connections and says nothing leaves room
for those who know a password, and for clients at other addresses.
"""

from collections import Counter

from headwater_protocol.errors import TooMany
from headwater_server.net.session.certificates import TlsFacts
from headwater_server.net.session.login_attempts import address_of
from headwater_server.net.session.peer import Peer


class Strangers:
    """The sessions that nobody knows yet, and TLS handshakes that may become one."""

    def __init__(self, *, count_max: int, per_address_max: int) -> None:
        self._count_max = count_max
        self._per_address_max = per_address_max
        # When each session was opened, in seconds. The oldest first.
        self._since: dict[Peer, float] = {}
        self._by_address: Counter[str] = Counter()
        self._tls: dict[Peer, TlsFacts] = {}

    def __contains__(self, session: Peer) -> bool:
        return session in self._since

    def check_room(self, peer: str) -> None:
        """Check that one more may come from the address of *peer*.

        Raises:
            TooMany: there are too many, from this address or in all.
        """
        address = address_of(peer)
        here = self._by_address[address]
        if here >= self._per_address_max:
            raise TooMany(
                f"{here} connections from {address} have not authenticated; allowed are "
                f"{self._per_address_max} at a time"
            )
        count = self._by_address.total()
        if count >= self._count_max:
            raise TooMany(
                f"{count} connections have not authenticated; allowed are {self._count_max} at a "
                "time, so that there is room for users"
            )

    def add(self, session: Peer, now: float) -> None:
        """A session was opened."""
        self._since[session] = now
        self.begin(session.peer)

    def remove(self, session: Peer) -> None:
        """A session is known now, or has ended."""
        self._tls.pop(session, None)
        if self._since.pop(session, None) is not None:
            self.end(session.peer)

    def introduce(self, session: Peer, tls: TlsFacts) -> None:
        """Note what the TLS connection of a session proves, until it has authenticated."""
        if session in self:
            self._tls[session] = tls

    def tls(self, session: Peer) -> TlsFacts | None:
        """What the TLS connection of a session proves; None: it has no TLS."""
        return self._tls.get(session)

    def begin(self, peer: str) -> None:
        """A TLS handshake has begun."""
        self._by_address[address_of(peer)] += 1

    def end(self, peer: str) -> None:
        """A TLS handshake is over."""
        address = address_of(peer)
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def since(self, before: float) -> list[Peer]:
        """The sessions that were opened before a time."""
        return [session for session, came in self._since.items() if came < before]
