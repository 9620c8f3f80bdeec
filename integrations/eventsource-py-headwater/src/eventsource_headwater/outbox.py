"""The outbox: events that are to be published to a broker.

    (space, "outbox", status, created at, id)    the entry; pending ones are read in their order
    (space, "outbox place", id)                  status and time: the key of the entry

An outbox is needed where the broker is fed by a worker of eventsource-py. With Headwater alone, a
consumer group follows the events themselves, and no second copy is written.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from eventsource.adapters.serialization import json_dumps
from eventsource.domain.event import DomainEvent
from eventsource.ports.outbox import OutboxEntry, OutboxStats, outbox_event_data

import headwater

Row = dict[str, Any]

STATUSES: Final = ("pending", "published", "failed")


class HeadwaterOutboxRepository:
    """Entries of the outbox. Reading the pending ones costs as much as there are.

    Args:
        database: an open database of this event loop.
        space: the first member of all keys.
    """

    def __init__(self, database: headwater.Database, space: str = "eventsource") -> None:
        self._db = database
        self._space = space

    def _key(self, row: Row) -> tuple[str, str, str, datetime, UUID]:
        return self._space, "outbox", row["status"], row["created_at"], row["id"]

    def _place(self, outbox_id: UUID) -> tuple[str, str, UUID]:
        return self._space, "outbox place", outbox_id

    async def add_event(self, event: DomainEvent) -> UUID:
        row: Row = {
            "id": uuid4(),
            "event_id": event.event_id,
            "event_type": event.event_type,
            "aggregate_id": event.aggregate_id,
            "aggregate_type": event.aggregate_type,
            "tenant_id": event.tenant_id,
            "event_data": json_dumps(outbox_event_data(event)),
            "created_at": datetime.now(UTC),
            "status": "pending",
        }
        batch = self._db.batch()
        batch.put(self._key(row), row)
        batch.put(self._place(row["id"]), [row["status"], row["created_at"]])
        await self._db.execute(batch)
        found: UUID = row["id"]
        return found

    async def get_pending_events(self, limit: int = 100) -> list[OutboxEntry]:
        if limit <= 0:
            return []
        pending = self._db.scan((self._space, "outbox", "pending"), limit=limit)
        return [OutboxEntry(**row) async for _, row in pending]

    async def _change(self, outbox_id: UUID, *, retried: int = 0, **members: Any) -> None:
        async def work(tx: headwater.Transaction) -> None:
            place = await tx.get(self._place(outbox_id))
            if place is None:
                return
            key = (self._space, "outbox", *place, outbox_id)
            row = await tx.get(key) | members
            if retried:
                row["retry_count"] = row.get("retry_count", 0) + retried
            tx.delete(key)
            tx.put(self._key(row), row)
            tx.put(self._place(outbox_id), [row["status"], row["created_at"]])

        await self._db.run(work)

    async def mark_published(self, outbox_id: UUID) -> None:
        await self._change(outbox_id, status="published", published_at=datetime.now(UTC))

    async def mark_failed(self, outbox_id: UUID, error: str) -> None:
        await self._change(outbox_id, status="failed", last_error=error)

    async def increment_retry(self, outbox_id: UUID, error: str | None = None) -> None:
        await self._change(outbox_id, retried=1, last_error=error)

    async def cleanup_published(self, days: int = 7) -> int:
        before = datetime.now(UTC) - timedelta(days=days)

        async def work(tx: headwater.Transaction) -> int:
            deleted = 0
            async for key, row in tx.scan((self._space, "outbox", "published")):
                if row["published_at"] < before:
                    tx.delete(key)
                    tx.delete(self._place(row["id"]))
                    deleted += 1
            return deleted

        return await self._db.run(work)

    async def get_stats(self) -> OutboxStats:
        oldest: datetime | None = None
        retries = []
        async for _, row in self._db.scan((self._space, "outbox", "pending")):
            oldest = oldest or row["created_at"]
            retries.append(row.get("retry_count", 0))
        counts = {
            status: await self._db.count((self._space, "outbox", status)) for status in STATUSES
        }
        return OutboxStats(
            pending_count=len(retries),
            published_count=counts["published"],
            failed_count=counts["failed"],
            oldest_pending=oldest,
            avg_retries=sum(retries) / len(retries) if retries else 0.0,
        )
