"""What subscriptions and feeds of keys have in common: items, and the position of the last one."""

from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Generic, Self, TypeVar

from headwater.errors import InvalidArgument
from headwater.feeds.feed import Feed
from headwater.feeds.items import CaughtUp, FellBehind, Item
from headwater.transport.channel import Channel
from headwater_protocol.limits import CREDIT_MAX
from headwater_protocol.numbers import Position

ItemT = TypeVar("ItemT", bound=Item)


class ItemFeed(Feed[list[Any]], AsyncIterator[ItemT], Generic[ItemT]):
    """A feed of items. Its position is that of the last item that it returned."""

    def __init__(self, channel: Channel, *, after: int, window: int) -> None:
        if not 1 <= window <= CREDIT_MAX:
            raise InvalidArgument(f"subscribe: window: {window}; allowed are 1 to {CREDIT_MAX}")
        super().__init__(channel, word="subscription", credit=window)
        self.position = Position(after)
        self._received = after
        self._last_size = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        self._check_alone()
        item = await self._next_item()
        self.position = Position(item.position)
        return item

    async def _next_item(self) -> ItemT:
        """The next item of the server. The position does not move yet."""
        # A consumer that asks for the next item has processed the last one.
        size, self._last_size = self._last_size, 0
        self._grant(size)
        return self._item(await self._take())

    @abstractmethod
    def _item(self, payload: list[Any]) -> ItemT:
        """The item of a push, which was accepted."""

    def _reset(self) -> None:
        self._last_size = 0

    def _accept(self, payload: list[Any]) -> bool:
        match payload:
            case ["caught_up" | "fell_behind", int(position), *_]:
                self._received = max(self._received, position)
                if self._queue and self._queue[-1][0] == payload[0] == "caught_up":
                    # Quiet feeds are told again and again; a slow consumer needs the last one.
                    self._queue.pop()
            case _:
                return False
        self._queue.append(payload)
        return True

    @staticmethod
    def _news(payload: list[Any]) -> CaughtUp | FellBehind:
        """The item of a push that tells how far the feed is."""
        kind = CaughtUp if payload[0] == "caught_up" else FellBehind
        return kind(Position(payload[1]))
