"""Read models: the keys that a projection writes, under the prefix of the build that wrote them.

    in a handler     tx.model.add(("ann",), 10)     writes ("$model", "balances", 3, "ann")
    for readers      db.model("balances").get(("ann",))

The head of the projection names the current build. Between reading the head and reading a key, the
build may be replaced and removed. So a reader remembers the last build, reads the key and then the
head, and starts again if the head names another build. A build is complete as long as the head
names it.
"""

from collections.abc import Iterator
from typing import Any, Final

from headwater.codecs.codec import Codec, MsgpackCodec, decode_with
from headwater.errors import InvalidArgument
from headwater.reads.pages import Fetch, KeyPages, Pages
from headwater.reads.reads import Reads
from headwater.transactions.transaction import Transaction
from headwater.transport.channel import Channel
from headwater_protocol.keys import Key, KeyTuple, encode_key, prefix_range

_HEADS: Final = MsgpackCodec()


class ModelPages(KeyPages):
    """The keys under a prefix, without the prefix, and their values."""

    def __init__(
        self,
        fetch: Fetch,
        codec: Codec,
        prefix: KeyTuple,
        bounds: tuple[KeyTuple, KeyTuple | None, KeyTuple | None],
        *,
        reverse: bool,
        limit: int | None,
    ) -> None:
        self._bounds = bounds
        self._skipped = len(prefix)
        first, last = _range_below(prefix, *bounds)
        super().__init__(fetch, codec, first, last, reverse=reverse, limit=limit)

    def _decoded(self, items: list[bytes]) -> Iterator[tuple[KeyTuple, Any]]:
        return map(self._below, super()._decoded(items))

    def _below(self, item: tuple[KeyTuple, Any]) -> tuple[KeyTuple, Any]:
        key, value = item
        return key[self._skipped :], value


class Model:
    """The read model of one build, within a transaction: `tx.model` in a handler."""

    def __init__(self, transaction: Transaction, prefix: KeyTuple) -> None:
        self._transaction = transaction
        self._prefix = prefix

    def key(self, key: Key) -> KeyTuple:
        """The key of the database in which the model stores *key*."""
        return (*self._prefix, *_members(key))

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default* if it is absent."""
        return await self._transaction.get(self.key(key), default)

    def scan(
        self,
        prefix: Key = (),
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, Any]]:
        """Iterate over (key, value) in the order of keys, like `scan` of a database."""
        transaction = self._transaction
        return ModelPages(
            transaction._fetch,  # noqa: SLF001
            transaction._codec,  # noqa: SLF001
            self._prefix,
            _bounds(prefix, start, end),
            reverse=reverse,
            limit=limit,
        )

    def put(self, key: Key, value: Any) -> None:
        """Set the value of a key."""
        self._transaction.put(self.key(key), value)

    def delete(self, key: Key) -> None:
        """Delete a key. It is no error if the key is absent."""
        self._transaction.delete(self.key(key))

    def delete_range(self, prefix: Key) -> None:
        """Delete the keys that begin with *prefix*. The prefix () is the whole model.

        One transaction may delete 100,000 keys; above that, it fails with TooLarge.
        """
        self._transaction.delete_range(self.key(prefix))

    def add(self, key: Key, number: float) -> None:
        """Add to the number that a key holds. An absent key counts as 0."""
        self._transaction.add(self.key(key), number)

    def min(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it already holds a smaller number."""
        self._transaction.min(self.key(key), number)

    def max(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it already holds a larger number."""
        self._transaction.max(self.key(key), number)


class ReadModel:
    """The current build of a projection, for readers. Made by `db.model(name)`.

    A projection that never ran has an empty model.

    Attributes:
        name: of the projection.
    """

    def __init__(self, reads: Reads, name: str, channel: Channel | None) -> None:
        self.name = name
        self._reads = reads
        self._head_key = encode_key(("$projection", name))
        # Outside of a transaction the head may change from one read to the next.
        self._channel = channel
        self._build: int | None = None

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default* if it is absent."""
        while True:
            build = self._build if self._build is not None else await self.current()
            encoded = encode_key((*self._prefix(build), *_members(key)))
            if self._channel is None:
                data = await self._reads._fetch("get", encoded)  # noqa: SLF001
            else:
                data, head = await self._both(encoded, self._head_key)
                if self._current(head) != build:
                    continue
            if data is None:
                return default
            place = f"value of {key!r:.80} in the model of {self.name}"
            return decode_with(self._reads._codec, data, place)  # noqa: SLF001

    def scan(
        self,
        prefix: Key = (),
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, Any]]:
        """Iterate over (key, value) in the order of keys, all at one commit."""
        return ReadModelPages(self, _bounds(prefix, start, end), reverse=reverse, limit=limit)

    async def current(self) -> int:
        """The number of the build that readers see. 0: the projection never ran."""
        data = await self._reads._fetch("get", self._head_key)  # noqa: SLF001
        return self._current(data)

    def _current(self, head: bytes | None) -> int:
        self._build = 0 if head is None else _HEADS.decode(head)["build"][0]
        return self._build

    def _prefix(self, build: int) -> KeyTuple:
        return ("$model", self.name, build)

    async def _both(self, *keys: bytes) -> list[Any]:
        """Read keys one after the other, in one round trip."""
        assert self._channel is not None
        return await self._channel.read_together([("get", None, key) for key in keys])


class ReadModelPages(ModelPages):
    """A scan of the build that is current when the first page is read."""

    # At a newer commit the build may have been replaced, and its keys be gone.
    may_move = False

    def __init__(
        self,
        model: ReadModel,
        bounds: tuple[KeyTuple, KeyTuple | None, KeyTuple | None],
        *,
        reverse: bool,
        limit: int | None,
    ) -> None:
        reads = model._reads  # noqa: SLF001
        self._model = model
        self._begun = False
        super().__init__(
            reads._fetch,  # noqa: SLF001
            reads._codec,  # noqa: SLF001
            ("$model", model.name, 0),
            bounds,
            reverse=reverse,
            limit=limit,
        )

    async def _page(self, size: int) -> tuple[int, Iterator[tuple[KeyTuple, Any]], bool]:
        if self._begun:
            return await super()._page(size)
        build = await self._model.current()
        while True:
            self._range = _range_below(("$model", self._model.name, build), *self._bounds)
            self.commit = None
            page = await super()._page(size)
            # Later pages are of the commit of the first page, at which the build was complete.
            seen, build = build, await self._model.current()
            if seen == build:
                self._begun = True
                return page


def _members(key: Key) -> KeyTuple:
    return key if isinstance(key, tuple) else (key,)


def _bounds(
    prefix: Key, start: Key | None, end: Key | None
) -> tuple[KeyTuple, KeyTuple | None, KeyTuple | None]:
    inner = _members(prefix)
    if inner and (start is not None or end is not None):
        raise InvalidArgument("give either a prefix, or start= and end=")
    return (
        inner,
        None if start is None else _members(start),
        None if end is None else _members(end),
    )


def _range_below(
    prefix: KeyTuple, inner: KeyTuple, start: KeyTuple | None, end: KeyTuple | None
) -> tuple[bytes, bytes | None]:
    first, last = prefix_range((*prefix, *inner))
    if start is not None:
        first = encode_key((*prefix, *start))
    if end is not None:
        last = encode_key((*prefix, *end))
    return first, last
