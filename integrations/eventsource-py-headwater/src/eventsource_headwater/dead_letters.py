"""Events that a projection could not process after all its retries."""

import traceback
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from eventsource.adapters.serialization import json_dumps
from eventsource.ports.dlq import DLQEntry, DLQStats, ProjectionFailureCount

import headwater

Row = dict[str, Any]


class HeadwaterDLQRepository:
    """Dead letters, numbered from 1. Statistics and listings read all of them.

    Args:
        database: an open database of this event loop.
        space: the first member of all keys.
    """

    def __init__(self, database: headwater.Database, space: str = "eventsource") -> None:
        self._db = database
        self._space = space

    def _key(self, number: int) -> tuple[str, str, int]:
        return self._space, "dlq", number

    def _index(self, event_id: UUID, projection_name: str) -> tuple[str, str, UUID, str]:
        return self._space, "dlq by event", event_id, projection_name

    async def _rows(self) -> list[Row]:
        return [row async for _, row in self._db.scan((self._space, "dlq"))]

    async def add_failed_event(
        self,
        event_id: UUID,
        projection_name: str,
        event_type: str,
        event_data: dict[str, Any],
        error: Exception,
        retry_count: int = 0,
    ) -> None:
        now = datetime.now(UTC)
        trace = "".join(traceback.format_exception(error))
        index = self._index(event_id, projection_name)

        async def work(tx: headwater.Transaction) -> None:
            number = await tx.get(index)
            if number is None:
                counter = (self._space, "dlq number")
                number = await tx.get(counter, 0) + 1
                tx.put(counter, number)
                tx.put(index, number)
                row = {
                    "id": number,
                    "event_id": event_id,
                    "projection_name": projection_name,
                    "event_type": event_type,
                    "event_data": json_dumps(event_data),
                    "first_failed_at": now,
                }
            else:
                row = await tx.get(self._key(number))
            failure = {
                "retry_count": retry_count,
                "last_failed_at": now,
                "error_message": str(error),
                "error_stacktrace": trace,
                "status": "failed",
            }
            tx.put(self._key(number), row | failure)

        await self._db.run(work)

    async def get_failed_events(
        self,
        projection_name: str | None = None,
        status: str = "failed",
        limit: int = 100,
    ) -> list[DLQEntry]:
        rows = [
            row
            for row in await self._rows()
            if row["status"] == status and projection_name in (None, row["projection_name"])
        ]
        rows.sort(key=lambda row: row["first_failed_at"], reverse=True)
        return [DLQEntry(**row) for row in rows[:limit]]

    async def get_failed_event_by_id(self, dlq_id: int | str) -> DLQEntry | None:
        row = await self._db.get(self._key(int(dlq_id)))
        return None if row is None else DLQEntry(**row)

    async def _change(self, dlq_id: int | str, **members: Any) -> None:
        key = self._key(int(dlq_id))

        async def work(tx: headwater.Transaction) -> None:
            row = await tx.get(key)
            if row is not None:
                tx.put(key, row | members)

        await self._db.run(work)

    async def mark_resolved(self, dlq_id: int | str, resolved_by: str | UUID) -> None:
        by = str(resolved_by) if resolved_by else None
        await self._change(dlq_id, status="resolved", resolved_at=datetime.now(UTC), resolved_by=by)

    async def mark_retrying(self, dlq_id: int | str) -> None:
        await self._change(dlq_id, status="retrying")

    async def _active(self) -> list[Row]:
        return [row for row in await self._rows() if row["status"] in ("failed", "retrying")]

    async def get_failure_stats(self) -> DLQStats:
        rows = await self._active()
        oldest = min((row["first_failed_at"] for row in rows), default=None)
        return DLQStats(
            total_failed=sum(row["status"] == "failed" for row in rows),
            total_retrying=sum(row["status"] == "retrying" for row in rows),
            affected_projections=len({row["projection_name"] for row in rows}),
            oldest_failure=None if oldest is None else oldest.isoformat(),
        )

    async def get_projection_failure_counts(self) -> list[ProjectionFailureCount]:
        by_name: dict[str, list[Row]] = {}
        for row in await self._active():
            by_name.setdefault(row["projection_name"], []).append(row)
        counts = [
            ProjectionFailureCount(
                projection_name=name,
                failure_count=len(rows),
                oldest_failure=min(row["first_failed_at"] for row in rows).isoformat(),
                most_recent_failure=max(row["last_failed_at"] for row in rows).isoformat(),
            )
            for name, rows in by_name.items()
        ]
        return sorted(counts, key=lambda count: count.failure_count, reverse=True)

    async def delete_resolved_events(self, older_than_days: int = 30) -> int:
        before = datetime.now(UTC) - timedelta(days=older_than_days)

        async def work(tx: headwater.Transaction) -> int:
            deleted = 0
            async for key, row in tx.scan((self._space, "dlq")):
                if row["status"] == "resolved" and row["resolved_at"] < before:
                    tx.delete(key)
                    tx.delete(self._index(row["event_id"], row["projection_name"]))
                    deleted += 1
            return deleted

        return await self._db.run(work)
