"""Retention and erasure without an event loop; see retention.py."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from headwater.database import Database
from headwater.records import Committed
from headwater.transport.stepping import step


class BlockingRetention:
    """What is kept of a stream, and what is erased; see RetentionCalls."""

    _database: Database

    def truncate(self, stream: str, *, before: int) -> Committed:
        return step(self._database.truncate(stream, before=before))

    def delete_stream(self, stream: str) -> Committed:
        return step(self._database.delete_stream(stream))

    def set_retention(
        self,
        stream: str,
        *,
        max_count: int | None = None,
        max_age: timedelta | float | None = None,
    ) -> Committed:
        return step(self._database.set_retention(stream, max_count=max_count, max_age=max_age))

    def erase(
        self,
        stream: str | None = None,
        *,
        versions: Iterable[int] | None = None,
        ids: Iterable[UUID] | None = None,
        positions: Iterable[int] | None = None,
    ) -> Committed:
        return step(self._database.erase(stream, versions=versions, ids=ids, positions=positions))
