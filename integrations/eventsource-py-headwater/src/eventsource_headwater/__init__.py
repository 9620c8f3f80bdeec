"""The ports of eventsource-py on Headwater's asyncio client.

All adapters take an open `headwater.Database` and a space. The space begins the name of each stream
and each key, so that several installations share a server undisturbed.

| port | here |
|---|---|
| event store, all capabilities | streams `SPACE.CATEGORY-ID`, and keys `(SPACE, "id", EVENT ID)` |
| snapshots, checkpoints, outbox, dead letters, read models | keys below `(SPACE, …)` |
| lock manager | keys that expire, renewed while the lock is held |
"""

from eventsource_headwater.checkpoints import HeadwaterCheckpointRepository
from eventsource_headwater.dead_letters import HeadwaterDLQRepository
from eventsource_headwater.locks import HeadwaterLockManager
from eventsource_headwater.outbox import HeadwaterOutboxRepository
from eventsource_headwater.readmodels import HeadwaterReadModelRepository
from eventsource_headwater.snapshots import HeadwaterSnapshotStore
from eventsource_headwater.store import HeadwaterEventStore

__all__ = [
    "HeadwaterCheckpointRepository",
    "HeadwaterDLQRepository",
    "HeadwaterEventStore",
    "HeadwaterLockManager",
    "HeadwaterOutboxRepository",
    "HeadwaterReadModelRepository",
    "HeadwaterSnapshotStore",
]
