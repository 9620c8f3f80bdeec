"""Snapshots, as keys: the library saves them also for streams that have no events here."""

from uuid import UUID

from eventsource.ports.snapshots import Snapshot

import headwater


class HeadwaterSnapshotStore:
    """The newest snapshot of each aggregate.

    Args:
        database: an open database of this event loop.
        space: the first member of all keys.
    """

    def __init__(self, database: headwater.Database, space: str = "eventsource") -> None:
        self._db = database
        self._space = space

    def _key(self, aggregate_id: UUID, aggregate_type: str) -> tuple[str, str, str, UUID]:
        return self._space, "snapshot", aggregate_type, aggregate_id

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        await self._db.put(
            self._key(snapshot.aggregate_id, snapshot.aggregate_type),
            [snapshot.version, snapshot.state, snapshot.schema_version, snapshot.created_at],
        )

    async def get_snapshot(self, aggregate_id: UUID, aggregate_type: str) -> Snapshot | None:
        row = await self._db.get(self._key(aggregate_id, aggregate_type))
        if row is None:
            return None
        version, state, schema_version, created_at = row
        return Snapshot(aggregate_id, aggregate_type, version, state, schema_version, created_at)

    async def delete_snapshot(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        return await self._db.pop(self._key(aggregate_id, aggregate_type)) is not None

    async def snapshot_exists(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        return await self._db.count(self._key(aggregate_id, aggregate_type)) > 0

    async def delete_snapshots_by_type(
        self, aggregate_type: str, schema_version_below: int | None = None
    ) -> int:
        """Delete the snapshots of a type, or those of older schemas. Returns their number."""
        prefix = (self._space, "snapshot", aggregate_type)
        if schema_version_below is None:
            return (await self._db.delete_range(prefix)).count
        below = schema_version_below

        async def work(tx: headwater.Transaction) -> int:
            old = [key async for key, row in tx.scan(prefix) if row[2] < below]
            for key in old:
                tx.delete(key)
            return len(old)

        return await self._db.run(work)
