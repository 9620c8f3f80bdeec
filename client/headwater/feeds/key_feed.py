"""Feeds of keys: every change in a range of keys, with the old and the new value."""

from typing import Any

from headwater.codecs.codec import Codec
from headwater.feeds.item_feed import ItemFeed
from headwater.feeds.items import Changes, KeyItem
from headwater.reads.key_changes import KeyChange
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection
from headwater_protocol.numbers import CommitNumber


class KeyFeed(ItemFeed[KeyItem]):
    """A subscription to changes of keys. Made by `db.subscribe(keys=…)`; use it like one to events.

    It delivers Changes, CaughtUp and FellBehind, whose `position` is a commit. It raises
    HistoryGone if it falls behind the history window, and otherwise what a subscription raises.

    Attributes:
        position: the commit of the last item that it returned. A later feed can continue after it.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        *,
        wanted: tuple[bytes, bytes | None],
        after: int,
        window: int,
    ) -> None:
        super().__init__(channel, after=after, window=window)
        self._codec = codec
        self._range = wanted
        self._partial: list[list[Any]] = []

    async def __anext__(self) -> KeyItem:
        return await super().__anext__()

    async def _request(self, connection: Connection) -> int:
        return await connection.subscribe(
            self, *self._range, self._received, self._credit, operation="subscribe_keys"
        )

    def _reset(self) -> None:
        super()._reset()
        # If a commit was not received completely, all its changes are sent again.
        self._partial = []

    def _accept(self, payload: list[Any]) -> bool:
        match payload:
            case ["changes", [*commits]]:
                for commit, entries, more in commits:
                    self._partial += _joined(self._partial, entries)
                    if not more:
                        self._queue.append(["changes", commit, self._partial])
                        self._received = commit
                        self._channel.note_seen(commit)
                        self._partial = []
                return True
            case _:
                return super()._accept(payload)

    def _item(self, payload: list[Any]) -> KeyItem:
        if payload[0] != "changes":
            return self._news(payload)
        _, commit, entries = payload
        self._last_size = len(entries)
        codec = self._codec
        return Changes(CommitNumber(commit), tuple(KeyChange(codec, entry) for entry in entries))


def _joined(before: list[list[Any]], entries: list[list[Any]]) -> list[list[Any]]:
    """Entries of three members, or four. An entry that came in two parts is joined."""
    if all(len(entry) > 2 for entry in entries):
        return entries
    joined: list[list[Any]] = []
    for entry in entries:
        last = joined[-1] if joined else before[-1] if before else None
        if len(entry) > 2:
            joined.append(entry)
        elif last is not None and len(last) == 2:
            last.append(entry[1])
        else:
            joined.append(entry)
    return joined
