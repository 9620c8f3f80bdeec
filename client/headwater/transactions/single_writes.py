"""Single writes: `db.put(…)`, `db.append(…)` and the others outside of a transaction.

Each one is a batch with a single write: one round trip, one transaction, exactly once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from headwater.errors import ConditionFailed
from headwater.reads.query import Filter, Query
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

    async def put(
        self,
        key: Key,
        value: Any,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> Committed:
        """Set the value of a key, and when it expires.

        Args:
            key: the key.
            value: any value that the codec can encode.
            ttl: the time from the commit on after which the key is deleted. A number is in seconds.
            expires_at: the time at which it is deleted. Without either it does not expire, also if
                it would have before.
        """
        batch = self.batch()
        batch.put(key, value, ttl=ttl, expires_at=expires_at)
        return (await self.execute(batch)).committed

    async def touch(
        self,
        key: Key,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> bool:
        """Let a key expire at another time, without a new value. Returns whether it exists.

        Args:
            key: the key.
            ttl, expires_at: when it expires, as for `put`. Without either it does not expire.
        """
        batch = self.batch()
        place = batch.exists(key)
        batch.touch(key, ttl=ttl, expires_at=expires_at)
        found: bool = (await self.execute(batch)).results[place]
        return found

    async def put_if_absent(
        self,
        key: Key,
        value: Any,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> bool:
        """Set the value of a key that is absent. Returns whether it was.

        Args:
            key, value, ttl, expires_at: as for `put`.
        """
        batch = self.batch()
        batch.require_absent(key)
        batch.put(key, value, ttl=ttl, expires_at=expires_at)
        return await self._holds(batch)

    async def compare_and_set(
        self,
        key: Key,
        expected: Any,
        value: Any,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> bool:
        """Set the value of a key that holds exactly *expected*. Returns whether it did.

        The encoded values are compared. `put_if_absent` is for a key that is absent.

        Args:
            key: the key.
            expected: the value that it must have.
            value, ttl, expires_at: as for `put`.
        """
        batch = self.batch()
        batch.require(key, expected)
        batch.put(key, value, ttl=ttl, expires_at=expires_at)
        return await self._holds(batch)

    async def pop(self, key: Key, default: Any = None) -> Any:
        """Delete a key, and return the value that it had, or *default* if it was absent."""
        batch = self.batch()
        place = batch.get(key, default)
        batch.delete(key)
        return (await self.execute(batch)).results[place]

    async def _holds(self, batch: Batch) -> bool:
        try:
            await self.execute(batch)
        except ConditionFailed:
            return False
        return True

    async def delete(self, key: Key) -> Committed:
        """Delete a key. It is no error if the key is absent."""
        batch = self.batch()
        batch.delete(key)
        return (await self.execute(batch)).committed

    async def add(self, key: Key, number: float) -> Committed:
        """Add to the number that a key holds. An absent key counts as 0."""
        batch = self.batch()
        batch.add(key, number)
        return (await self.execute(batch)).committed

    async def min(self, key: Key, number: float) -> Committed:
        """Set a key to *number* unless it already holds a smaller number."""
        batch = self.batch()
        batch.min(key, number)
        return (await self.execute(batch)).committed

    async def max(self, key: Key, number: float) -> Committed:
        """Set a key to *number* unless it already holds a larger number."""
        batch = self.batch()
        batch.max(key, number)
        return (await self.execute(batch)).committed

    async def append(
        self,
        stream: str,
        events: Event | Iterable[Event],
        *,
        expect: int = ANY,
        unless: Query | Filter | None = None,
        after: int = 0,
    ) -> Committed:
        """Append events to a stream.

        Args:
            stream: its name.
            events: one, or several in order.
            expect: the version that the stream must be at: a number, NO_STREAM, STREAM_EXISTS
                or ANY.
            unless, after: append only if no event after this position, in any stream, matches
                this query or filter. *after* is the position up to which it was read.

        Raises:
            WrongVersion: the stream is not at the expected version.
            ConditionFailed: an event after *after* matches *unless*.
        """
        batch = self.batch()
        batch.append(stream, events, expect=expect, unless=unless, after=after)
        return (await self.execute(batch)).committed

    async def save_snapshot(
        self,
        stream: str,
        *,
        version: int,
        state: Any,
        schema: int = 0,
        name: str = "",
        read_at: int | None = None,
    ) -> Committed:
        """Store the state of a stream at a version, for `load`.

        Args:
            stream: its name.
            version: the version of the stream that the state belongs to.
            state: any value that the codec can encode.
            schema: the version of the code that made the state. `load` asks for the same.
            name: distinguishes several states of one stream.
            read_at: the commit at which the events of the state were read: `loaded.commit`. Outside
                of a transaction that has read them, this is needed if events were ever erased.

        Raises:
            Conflict: events were erased since they were read, so the state may hold their data.
            InvalidArgument: events were erased, and without `read_at` nobody can tell when.
        """
        batch = self.batch()
        batch.save_snapshot(
            stream, version=version, state=state, schema=schema, name=name, read_at=read_at
        )
        return (await self.execute(batch)).committed

    async def truncate(self, stream: str, *, before: int) -> Committed:
        """Hide the events of a stream below a version from all reads, permanently.

        Args:
            stream: its name.
            before: the first version that stays. One above the version of the stream hides all.
        """
        batch = self.batch()
        batch.truncate(stream, before=before)
        return (await self.execute(batch)).committed

    async def delete_stream(self, stream: str) -> Committed:
        """Hide all events of a stream, and delete its snapshots.

        The stream keeps counting versions, but until the next append it does not exist:
        expect=NO_STREAM holds. It is no error if there is no such stream.
        """
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
        """Keep only the newest events of a stream, until the retention is set again.

        If neither limit is given, everything is kept from now on. Hidden events stay hidden.

        Args:
            stream: its name.
            max_count: the number of events to keep.
            max_age: the age up to which events are kept. A number is in seconds.
        """
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
        """Erase the data and metadata of events permanently, at every commit.

        Their positions, versions, ids, types and tags stay, and `RecordedEvent.erased` is true.
        Erasing an erased event is no error.

        Args:
            stream: the stream of *versions* or *ids*.
            versions: of events of that stream.
            ids: the ids that were given to events of that stream.
            positions: of events of any stream.

        Raises:
            NoSuchEvent: one of the events does not exist.
        """
        batch = self.batch()
        batch.erase(stream, versions=versions, ids=ids, positions=positions)
        return (await self.execute(batch)).committed
