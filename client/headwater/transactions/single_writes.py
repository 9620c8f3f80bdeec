"""Single writes: what `db.put(…)` and its like do, each a transaction of its own.

Each is a batch of one write, so it takes one round trip and happens exactly once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from headwater.reads.query import Query
from headwater.records import Committed, Event
from headwater.transactions.batch import Batch, Executed
from headwater_protocol.keys import Key
from headwater_protocol.numbers import ANY


class SingleWrites(ABC):
    """The writes of a database."""

    @abstractmethod
    def batch(self) -> Batch:
        """A new batch."""

    @abstractmethod
    async def execute(self, batch: Batch) -> Executed:
        """Execute a batch as one transaction, exactly once."""

    async def put(self, key: Key, value: Any) -> Committed:
        """Set the value of a key."""
        batch = self.batch()
        batch.put(key, value)
        return (await self.execute(batch)).committed

    async def delete(self, key: Key) -> Committed:
        """Remove a key; it is no error if it is not there."""
        batch = self.batch()
        batch.delete(key)
        return (await self.execute(batch)).committed

    async def delete_range(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> Committed:
        """Remove the keys that begin with *prefix*, or those from *start* to before *end*."""
        batch = self.batch()
        batch.delete_range(prefix, start=start, end=end)
        return (await self.execute(batch)).committed

    async def add(self, key: Key, number: float) -> Committed:
        """Add to the number that a key holds, which is 0 if it is absent."""
        batch = self.batch()
        batch.add(key, number)
        return (await self.execute(batch)).committed

    async def min(self, key: Key, number: float) -> Committed:
        """Set a key to *number* unless it holds a smaller one."""
        batch = self.batch()
        batch.min(key, number)
        return (await self.execute(batch)).committed

    async def max(self, key: Key, number: float) -> Committed:
        """Set a key to *number* unless it holds a larger one."""
        batch = self.batch()
        batch.max(key, number)
        return (await self.execute(batch)).committed

    async def append(
        self,
        stream: str,
        events: Event | Iterable[Event],
        *,
        expect: int = ANY,
        unless: Query | None = None,
        after: int = 0,
    ) -> Committed:
        """Append events to a stream.

        Args:
            stream: its name.
            events: one, or several in order.
            expect: the version that the stream must be at: a number, NO_STREAM, STREAM_EXISTS
                or ANY.
            unless, after: an event that fits this query beyond this position must not exist, in
                any stream. *after* is the position up to which the query was read.

        Raises:
            WrongVersion: the stream is not at the version that was expected.
            ConditionFailed: there is an event that fits *unless*.
        """
        batch = self.batch()
        batch.append(stream, events, expect=expect, unless=unless, after=after)
        return (await self.execute(batch)).committed

    async def save_snapshot(
        self, stream: str, *, version: int, state: Any, schema: int = 0, name: str = ""
    ) -> Committed:
        """Keep the state that a stream has at a version, for `load`."""
        batch = self.batch()
        batch.save_snapshot(stream, version=version, state=state, schema=schema, name=name)
        return (await self.execute(batch)).committed

    async def truncate(self, stream: str, *, before: int) -> Committed:
        """Hide a stream's events below a version; see Transaction.truncate."""
        batch = self.batch()
        batch.truncate(stream, before=before)
        return (await self.execute(batch)).committed

    async def delete_stream(self, stream: str) -> Committed:
        """Hide all events of a stream; see Transaction.delete_stream."""
        batch = self.batch()
        batch.delete_stream(stream)
        return (await self.execute(batch)).committed

    async def set_retention(
        self,
        stream: str,
        *,
        max_count: int | None = None,
        max_age: timedelta | float | None = None,
    ) -> Committed:
        """Keep only the newest events of a stream; see Transaction.set_retention."""
        batch = self.batch()
        batch.set_retention(stream, max_count=max_count, max_age=max_age)
        return (await self.execute(batch)).committed

    async def erase(
        self,
        stream: str | None = None,
        *,
        versions: Iterable[int] | None = None,
        ids: Iterable[UUID] | None = None,
        positions: Iterable[int] | None = None,
    ) -> Committed:
        """Erase the data of events for good; see Transaction.erase."""
        batch = self.batch()
        batch.erase(stream, versions=versions, ids=ids, positions=positions)
        return (await self.execute(batch)).committed
