"""Checkpoints of projections and positions of subscriptions."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventsource.ports import Position
from eventsource.ports.checkpoints import CheckpointData, LagMetrics

import headwater


class HeadwaterCheckpointRepository:
    """Stores how far each projection and subscription has read.

    Args:
        database: an open database of this event loop.
        space: the first member of all keys. `get_lag_metrics` needs the event store's.
    """

    def __init__(self, database: headwater.Database, space: str = "eventsource") -> None:
        self._db = database
        self._space = space

    def _key(self, name: str) -> tuple[str, str, str]:
        return self._space, "checkpoint", name

    async def _update(
        self, name: str, event_id: UUID, event_type: str, position: str | None
    ) -> None:
        async def work(tx: headwater.Transaction) -> None:
            old = await tx.get(self._key(name)) or {"processed": 0, "position": None}
            row = {
                "event_id": event_id,
                "event_type": event_type,
                "at": datetime.now(UTC),
                "processed": old["processed"] + 1,
                "position": old["position"] if position is None else position,
            }
            tx.put(self._key(name), row)

        await self._db.run(work)

    async def get_checkpoint(self, projection_name: str) -> UUID | None:
        row = await self._db.get(self._key(projection_name))
        return None if row is None else row["event_id"]

    async def update_checkpoint(
        self, projection_name: str, event_id: UUID, event_type: str
    ) -> None:
        await self._update(projection_name, event_id, event_type, None)

    async def reset_checkpoint(self, projection_name: str) -> None:
        await self._db.delete(self._key(projection_name))

    async def get_position(self, subscription_id: str) -> Position | None:
        return _position(await self._db.get(self._key(subscription_id)))

    async def save_position(
        self, subscription_id: str, position: Position, event_id: UUID, event_type: str
    ) -> None:
        await self._update(subscription_id, event_id, event_type, position.to_str())

    async def get_lag_metrics(
        self,
        projection_name: str,
        event_types: list[str] | None = None,
    ) -> LagMetrics | None:
        """The newest event of these types, and how many seconds the checkpoint is behind it."""
        row = await self._db.get(self._key(projection_name))
        if row is None:
            return None
        latest: headwater.RecordedEvent | None = None
        prefix = self._space.replace("%", "%25").replace("-", "%2D").replace(".", "%2E") + "."
        events = self._db.read_all(prefix=prefix, types=event_types or None, reverse=True, limit=1)
        async for event in events:
            latest = event
        behind = latest is not None and latest.id != row["event_id"]
        lag = (latest.time - row["at"]).total_seconds() if latest is not None and behind else 0.0
        return LagMetrics(
            projection_name,
            str(row["event_id"]),
            None if latest is None else str(latest.id),
            max(0.0, lag),
            row["processed"],
            row["at"].isoformat(),
        )

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        return [
            CheckpointData(
                str(key[2]),
                row["event_id"],
                row["event_type"],
                row["at"],
                row["processed"],
                _position(row),
            )
            async for key, row in self._db.scan((self._space, "checkpoint"))
        ]


def _position(row: dict[str, Any] | None) -> Position | None:
    if row is None or row["position"] is None:
        return None
    return Position.from_str(row["position"])
