"""Recorders of aggregates, notifications and snapshots.

The versions of an aggregate's events are those of its stream, so "one event for each originator and
version" is the stream's expected version. Headwater counts from 1. Aggregates that begin with
version 0 are stored one higher, and their events say so in the metadata.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final
from uuid import UUID

import msgpack
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    ProgrammingError,
    StoredEvent,
    Subscription,
)

import headwater
from eventsourcing_headwater.datastore import Datastore
from eventsourcing_headwater.feeds import Feed
from eventsourcing_headwater.names import (
    metadata_of,
    originator_of,
    stream_of,
    topic_and_offset,
    type_of,
)

VERSION_MAX: Final = 2**62

APPEND_SIZE_MAX: Final = 8 * 2**20
"""Bytes of states in one append. Larger insertions are several appends of one transaction."""

SHIFTED_STREAMS_MAX: Final = 10_000

Prepare = Callable[[headwater.Batch], None]
"""Adds conditions and writes to the batch that stores events."""


class ShiftedStreams:
    """Names of streams whose aggregates begin with version 0: the most recent ones.

    A name that was dropped costs a refused commit and a read.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, stream: str) -> bool:
        return stream in self._names

    def add(self, stream: str) -> None:
        with self._lock:
            self._names[stream] = None
            self._names.move_to_end(stream)
            while len(self._names) > SHIFTED_STREAMS_MAX:
                self._names.popitem(last=False)


class HeadwaterAggregateRecorder(AggregateRecorder):
    """Stored events of aggregates, each aggregate in a stream of its own."""

    def __init__(self, datastore: Datastore, category: str) -> None:
        self.datastore = datastore
        self.category = category
        self._shifted = ShiftedStreams()

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,  # noqa: ARG002 - for recorders that take more
    ) -> Sequence[int] | None:
        self._insert(stored_events, None)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent], prepare: Prepare | None) -> range:
        """Store events in one transaction. Returns their positions."""
        if not stored_events:
            return range(0)
        with self.datastore.database() as database:
            committed = self._commit(database, stored_events, prepare)
        assert committed.first_position is not None
        assert committed.last_position is not None
        return range(committed.first_position, committed.last_position + 1)

    def _commit(
        self,
        database: headwater.BlockingDatabase,
        stored_events: Sequence[StoredEvent],
        prepare: Prepare | None,
    ) -> headwater.Committed:
        # A refusal can teach at most once for each stream that it begins with version 0.
        for _ in range(len(stored_events) + 1):
            batch = database.batch()
            if prepare is not None:
                prepare(batch)
            try:
                self._append(batch, stored_events)
                return database.execute(batch).committed
            except headwater.WrongVersion as error:
                if not self._learn(database, error):
                    raise
            except headwater.TooLarge:
                if prepare is not None:
                    raise
                return self._commit_in_parts(database, stored_events)
        raise AssertionError("every stream was learnt, and the commit still refused")

    def _commit_in_parts(
        self, database: headwater.BlockingDatabase, stored_events: Sequence[StoredEvent]
    ) -> headwater.Committed:
        """Store more than one request holds, still in one transaction."""
        for _ in range(len(stored_events) + 1):
            try:
                with database.transaction() as transaction:
                    self._append(transaction, stored_events)
                assert transaction.committed is not None
                return transaction.committed
            except headwater.WrongVersion as error:
                if not self._learn(database, error):
                    raise
        raise AssertionError("every stream was learnt, and the commit still refused")

    def _append(
        self,
        writes: headwater.Batch | headwater.BlockingTransaction,
        stored_events: Sequence[StoredEvent],
    ) -> None:
        start = 0
        while start < len(stored_events):
            first = stored_events[start]
            version = first.originator_version
            stream = stream_of(self.category, first.originator_id)
            if version < 0:
                raise ProgrammingError(f"originator_version: {version}; the smallest is 0")
            if version == 0:
                self._shifted.add(stream)
            offset = -1 if stream in self._shifted else 0
            events: list[headwater.Event] = []
            size = 0
            for event in islice(stored_events, start, None):
                size += len(event.state)
                if (
                    event.originator_id != first.originator_id
                    or event.originator_version != version + len(events)
                    or (size > APPEND_SIZE_MAX and events)
                ):
                    break
                kind = type_of(event.topic)
                metadata = metadata_of(event.topic, kind, offset)
                events.append(headwater.Event(kind, event.state, metadata))
            writes.append(stream, events, expect=version - 1 - offset)
            start += len(events)

    def _learn(self, database: headwater.BlockingDatabase, error: headwater.WrongVersion) -> bool:
        """Whether a stream turns out to begin with version 0, so that another try may succeed."""
        learnt = False
        for conflict in error.conflicts:
            stream = conflict.get("stream")
            if stream is None or stream in self._shifted or not conflict.get("actual"):
                continue
            for event in database.read(stream, limit=1):
                if topic_and_offset(event.type, event.metadata)[1] == -1:
                    self._shifted.add(stream)
                    learnt = True
        return learnt

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        # Versions of the stream are those asked for or one higher. So read one more on each side.
        low = -1 if gt is None else max(gt, -1)
        most = VERSION_MAX if limit is None else limit
        if lte is not None:
            most = min(most, lte - low)
        if most <= 0:
            return []
        after = (0 if lte is None else lte + 2) if desc else max(low, 0)
        selected: list[StoredEvent] = []
        with self.datastore.database() as database:
            for event in database.read(
                stream_of(self.category, originator_id),
                after=after,
                reverse=desc,
                limit=None if most == VERSION_MAX else most + 1,
            ):
                topic, offset = topic_and_offset(event.type, event.metadata)
                version = event.version + offset
                if version <= low:
                    if desc:
                        break
                    continue
                if lte is not None and version > lte:
                    if not desc:
                        break
                    continue
                selected.append(StoredEvent(originator_id, version, topic, event.data))
                if len(selected) == most:
                    break
        return selected


class HeadwaterApplicationRecorder(HeadwaterAggregateRecorder, ApplicationRecorder):
    """Stored events, and the notifications of an application in the order of positions."""

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,  # noqa: ARG002 - for recorders that take more
    ) -> Sequence[int] | None:
        return list(self._insert(stored_events, None))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = 0 if start is None else max(0, start - 1 if inclusive_of_start else start)
        if stop is not None:
            limit = min(limit, stop - after)
        if limit <= 0:
            return []
        notifications: list[Notification] = []
        with self.datastore.database() as database:
            for event in database.read_all(
                after=after,
                category=self.category,
                types=[type_of(topic) for topic in dict.fromkeys(topics)] if topics else None,
                limit=limit,
            ):
                if stop is not None and event.position > stop:
                    break
                notifications.append(self.notification_of(event))
        return notifications

    def notification_of(self, event: headwater.RecordedEvent) -> Notification:
        """The notification that an event of this application is."""
        topic, offset = topic_and_offset(event.type, event.metadata)
        return Notification(
            originator_of(self.category, event.stream),
            event.version + offset,
            topic,
            event.data,
            event.position,
        )

    def max_notification_id(self) -> int | None:
        with self.datastore.database() as database:
            return database.newest_position(category=self.category) or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> "HeadwaterSubscription":
        return HeadwaterSubscription(recorder=self, gt=gt, topics=topics)


class HeadwaterSubscription(Subscription[HeadwaterApplicationRecorder]):
    """Notifications as they are committed. It reconnects by itself; stop() ends it."""

    def __init__(
        self,
        recorder: HeadwaterApplicationRecorder,
        gt: int | None = None,
        topics: Sequence[str] = (),
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._feed = Feed(
            recorder.datastore,
            after=max(0, gt or 0),
            category=recorder.category,
            types=[type_of(topic) for topic in dict.fromkeys(topics)] if topics else None,
        )

    def stop(self) -> None:
        super().stop()
        self._feed.stop()

    def __next__(self) -> Notification:
        notification = self._recorder.notification_of(next(self._feed))
        self._last_notification_id = notification.id
        return notification


class HeadwaterSnapshotRecorder(AggregateRecorder):
    """Snapshots as keys, since the library looks for the newest one up to any version."""

    def __init__(self, datastore: Datastore, category: str, purpose: str) -> None:
        self.datastore = datastore
        self._prefix = ("es", category, purpose)

    def insert_events(
        self,
        stored_events: Sequence[StoredEvent],
        **kwargs: Any,  # noqa: ARG002 - for recorders that take more
    ) -> Sequence[int] | None:
        if not stored_events:
            return None
        keys = [
            (*self._prefix, event.originator_id, event.originator_version)
            for event in stored_events
        ]
        if len(set(keys)) < len(keys):
            raise IntegrityError("two snapshots of one originator and version")
        with self.datastore.database() as database:
            batch = database.batch()
            for key, event in zip(keys, stored_events, strict=True):
                batch.require_absent(key)
                batch.put(key, msgpack.packb([event.topic, event.state]))
            database.execute(batch)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        if gt is not None and lte is not None and lte <= gt:
            return []
        place = (*self._prefix, originator_id)
        with self.datastore.database() as database:
            found = database.scan(
                start=(*place, -VERSION_MAX if gt is None else gt + 1),
                end=(*place, VERSION_MAX if lte is None else lte + 1),
                reverse=desc,
                limit=limit,
            )
            selected: list[StoredEvent] = []
            for key, value in found:
                version = key[-1]
                assert isinstance(version, int)
                topic, state = msgpack.unpackb(value)
                selected.append(StoredEvent(originator_id, version, topic, state))
            return selected
