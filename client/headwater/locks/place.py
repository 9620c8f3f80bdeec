"""A place in the line of a lock: a key with a time to live, as all the others in the line have.

    ("$lock", "report")         7                 the number that was given out last
    ("$lock", "report", 5)      expires in 30 s   holds the lock: nobody before it
    ("$lock", "report", 7)      expires in 12 s   waits for 5

Numbers only grow, so whoever has the lowest holds the lock, and its number is a fencing token: what
has accepted a number refuses lower ones. A place is deleted by whoever leaves, and expires if its
owner has died; the feed of keys tells both. Each process renews its own place, also while it waits.
"""

from datetime import timedelta
from typing import Final

from headwater.codecs.codec import MsgpackCodec
from headwater.errors import HeadwaterError, HistoryGone, InvalidArgument, LockLost
from headwater.feeds.items import Changes
from headwater.feeds.key_feed import KeyFeed
from headwater.identifiers import new_transaction_id
from headwater.reads.key_name_pages import KeyNamePages
from headwater.transactions import running
from headwater.transactions.batch import Batch
from headwater.transactions.transaction import Transaction
from headwater.transport.channel import Channel
from headwater_protocol.keys import KeyTuple, encode_key
from headwater_protocol.vocabulary.groups import NAME

TTL_DEFAULT: Final = 30.0
"""Seconds after which a place expires whose owner has died."""

TTL_MIN: Final = 0.1
"""The shortest time to live: a renewal takes a round trip and a sync."""

_RENEWALS: Final = 3
"""How often a place is renewed in its time to live."""

_WINDOW: Final = 100
_CODEC: Final = MsgpackCodec()


class Place:
    """A place in the line of a lock.

    Attributes:
        name: of the lock.
        number: of the place; 0 before `enter`.
        renewed: when it was last renewed, by the runtime's clock.
    """

    def __init__(self, channel: Channel, name: str, ttl: timedelta | float) -> None:
        NAME(name, "lock: name")
        self.name = name
        self.number = 0
        self.renewed = 0.0
        # The line is where places are taken and given up.
        self._channel = channel.at_leader
        self._ttl = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
        if not self._ttl >= TTL_MIN:
            raise InvalidArgument(f"lock: ttl: {ttl}; the minimum is {TTL_MIN} s")

    @property
    def key(self) -> KeyTuple:
        """The key of the place. It exists as long as the place does."""
        return ("$lock", self.name, self.number)

    async def enter(self) -> None:
        """Take a place at the end of the line."""

        async def take(transaction: Transaction) -> int:
            number = int(await transaction.get(("$lock", self.name), 0)) + 1
            transaction.put(("$lock", self.name), number)
            transaction.put(("$lock", self.name, number), None, ttl=self._ttl)
            return number

        channel = self._channel
        self.renewed = channel.runtime.now()
        self.number = await running.run(
            channel,
            lambda: Transaction(channel, _CODEC),
            take,
            (),
            attempts=None,
            deadline=None,
        )

    async def wait(self) -> None:
        """Wait until nobody is before this place.

        Raises:
            LockLost: the place has expired meanwhile.
        """
        first, last = encode_key(("$lock", self.name, 1)), encode_key(self.key)
        end = encode_key(("$lock", self.name, self.number + 1))
        while True:
            pages = KeyNamePages(self._channel.fetch, first, last, reverse=False, limit=None)
            before = {key[2] async for key in pages}
            if not before:
                return
            assert pages.commit is not None
            # Nobody can come before this place any more, so the deletions are all that matters.
            feed = KeyFeed(
                self._channel, _CODEC, wanted=(first, end), after=pages.commit, window=_WINDOW
            )
            try:
                async with feed:
                    async for item in feed:
                        if isinstance(item, Changes):
                            gone = {change.key[2] for change in item.changes if not change.exists}
                            if self.number in gone:
                                raise self.lost("its place in the line has expired")
                            before -= gone
                        if not before:
                            return
            except HistoryGone:
                # It has waited for long without a connection. Look again.
                continue

    async def renew(self) -> None:
        """Renew the place, again and again.

        Raises:
            LockLost: it has expired, or could not be renewed in time.
        """
        runtime = self._channel.runtime
        while True:
            await runtime.sleep(self._ttl / _RENEWALS)
            began = runtime.now()
            batch = Batch(_CODEC)
            there = batch.exists(self.key)
            batch.touch(self.key, ttl=self._ttl)
            transaction = new_transaction_id()
            try:
                _, results = await self._channel.persist(
                    transaction, "execute", transaction, *batch.request()
                )
            except HeadwaterError as error:
                if not error.retryable:
                    raise
                continue
            if not batch.results(results)[there]:
                raise self.lost("it has expired")
            self.renewed = began

    async def watch(self) -> None:
        """Watch that the place is renewed in time.

        Raises:
            LockLost: it was not, so it may have expired. No answer of the server is needed for it.
        """
        while (left := self.left()) > 0:
            await self._channel.runtime.sleep(left)
        raise self.lost(f"it was not renewed for {self._ttl:g} s")

    def left(self) -> float:
        """The seconds until the place may have expired, if it is not renewed."""
        return self.renewed + self._ttl - self._channel.runtime.now()

    async def leave(self) -> None:
        """Give the place up."""
        batch = Batch(_CODEC)
        batch.delete(self.key)
        transaction = new_transaction_id()
        await self._channel.persist(transaction, "execute", transaction, *batch.request())

    def drop(self) -> None:
        """Give the place up without waiting. If the request is lost, the place expires."""
        if self.number:
            writes = [["delete", encode_key(self.key)]]
            self._channel.post("execute", new_transaction_id(), [], [], writes)

    def lost(self, why: str) -> LockLost:
        """The error that this place is gone."""
        return LockLost(f"lock {self.name!r}, number {self.number}: {why}")
