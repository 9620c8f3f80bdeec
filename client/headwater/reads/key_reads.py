"""Reads of keys: the same calls in a transaction, outside of one, and in the past."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.codecs.keys_and_values import value_of
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import ExpiryPages, KeyPages, Pages
from headwater.records import Entry, time_of
from headwater_protocol.keys import Key, KeyTuple, encode_key


class KeyReads(ABC):
    """The reads of keys. Subclasses send the requests."""

    _codec: Codec

    @abstractmethod
    def _fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a read, and return the payload of the answer."""

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default* if it is absent."""
        encoded = encode_key(key)
        data = await self._fetch("get", encoded)
        return default if data is None else value_of(self._codec, encoded, data)

    async def get_entry(self, key: Key) -> Entry | None:
        """The value of a key and the time at which it expires. None: the key is absent."""
        encoded = encode_key(key)
        found = await self._fetch("get_entry", encoded)
        return None if found is None else entry_of(self._codec, encoded, found)

    async def ttl(self, key: Key) -> float | None:
        """The seconds until a key expires. None: it does not expire, or is absent."""
        return seconds_left(await self._fetch("get_expiry", encode_key(key)))

    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, Any]]:
        """Iterate over (key, value) in the order of keys.

        Args:
            prefix: a tuple that the keys begin with. Without prefix, start and end: all keys.
            start: the first key, inclusive.
            end: the last key, exclusive.
            reverse: start with the last key.
            limit: the maximum number of items.
        """
        first, last = key_range(prefix, start, end)
        return KeyPages(self._fetch, self._codec, first, last, reverse=reverse, limit=limit)

    def expiries(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, datetime]]:
        """Iterate over the keys that expire, each with its time, in the order of keys.

        Args:
            prefix, start, end, reverse, limit: which keys, as for `scan`.
        """
        first, last = key_range(prefix, start, end)
        return ExpiryPages(self._fetch, self._codec, first, last, reverse=reverse, limit=limit)


def entry_of(codec: Codec, encoded: bytes, found: list[Any]) -> Entry:
    """The entry in the answer of "get_entry"."""
    data, expires_at, _ = found
    return Entry(
        value_of(codec, encoded, data), None if expires_at is None else time_of(expires_at)
    )


def seconds_left(found: list[Any] | None) -> float | None:
    """The seconds until a key expires, from the answer of "get_expiry"."""
    if found is None or found[0] is None:
        return None
    left: int = found[0] - found[1]
    return max(left, 0) / 1_000_000
