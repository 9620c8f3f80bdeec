"""Dynamic consistency boundaries: one stream of all events, found by their types and tags."""

from collections.abc import Iterator, Sequence
from typing import Final

from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBReadResponse,
    DCBRecorder,
    DCBSequencedEvent,
    DCBSubscription,
)
from eventsourcing.persistence import IntegrityError, ProgrammingError

import headwater
from eventsourcing_headwater.datastore import Datastore
from eventsourcing_headwater.feeds import Feed
from eventsourcing_headwater.names import metadata_of, topic_and_offset, type_of

STREAM: Final = "dcb"
"""The originator part of the stream's name. Those of aggregates begin with "u" or "s"."""


class HeadwaterDCBRecorder(DCBRecorder):
    """Appends events on the condition that no other event matches a query."""

    def __init__(self, datastore: Datastore, category: str) -> None:
        self.datastore = datastore
        self.stream = f"{category}-{STREAM}"

    def filter_of(self, query: DCBQuery | None) -> headwater.Filter:
        """The events of this recorder that match a query; all if it is None or has no items."""
        return headwater.Filter(stream=self.stream, query=_query_of(query))

    def read(
        self,
        query: DCBQuery | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> "HeadwaterDCBReadResponse":
        with self.datastore.database() as database:
            pages = database.read_all(
                after=max(0, after or 0),
                stream=self.stream,
                query=_query_of(query),
                limit=limit,
            )
            events = list(pages)
        if limit is None:
            head: int | None = pages.position
        else:
            head = events[-1].position if events else None
        return HeadwaterDCBReadResponse(map(sequenced_event_of, events), head or None)

    def append(
        self, events: Sequence[DCBEvent], condition: DCBAppendCondition | None = None
    ) -> int:
        if not events:
            raise ProgrammingError("append: there must be at least one event")
        new = [_event_of(event) for event in events]
        with self.datastore.database() as database:
            if condition is None:
                committed = database.append(self.stream, new)
            else:
                try:
                    committed = database.append(
                        self.stream,
                        new,
                        unless=self.filter_of(condition.fail_if_events_match),
                        after=max(0, condition.after or 0),
                    )
                except headwater.ConditionFailed as error:
                    raise IntegrityError(condition) from error
        assert committed.last_position is not None
        return committed.last_position

    def subscribe(
        self, query: DCBQuery | None = None, *, after: int | None = None
    ) -> "HeadwaterDCBSubscription":
        return HeadwaterDCBSubscription(self, query=query, after=after)


class HeadwaterDCBReadResponse(DCBReadResponse):
    """The events of a read, and the position up to which there are no others."""

    def __init__(self, events: Iterator[DCBSequencedEvent], head: int | None) -> None:
        self._events = events
        self._head = head

    @property
    def head(self) -> int | None:
        return self._head

    def __next__(self) -> DCBSequencedEvent:
        return next(self._events)


class HeadwaterDCBSubscription(DCBSubscription[HeadwaterDCBRecorder]):
    """Matching events as they are committed. It reconnects by itself; stop() ends it."""

    def __init__(
        self,
        recorder: HeadwaterDCBRecorder,
        query: DCBQuery | None = None,
        after: int | None = None,
    ) -> None:
        super().__init__(recorder=recorder, query=query, after=after)
        self._feed = Feed(
            recorder.datastore,
            after=max(0, after or 0),
            stream=recorder.stream,
            query=_query_of(query),
        )

    def stop(self) -> None:
        super().stop()
        self._feed.stop()

    def __next__(self) -> DCBSequencedEvent:
        event = sequenced_event_of(next(self._feed))
        self._last_position = event.position
        return event


def sequenced_event_of(event: headwater.RecordedEvent) -> DCBSequencedEvent:
    """The library's form of an event of the stream."""
    kind, _ = topic_and_offset(event.type, event.metadata)
    return DCBSequencedEvent(DCBEvent(kind, event.data, list(event.tags)), event.position)


def _event_of(event: DCBEvent) -> headwater.Event:
    kind = type_of(event.type)
    # Headwater's tags are a set: one that is given twice would be refused.
    tags = list(dict.fromkeys(event.tags))
    return headwater.Event(kind, event.data, metadata_of(event.type, kind, 0), tags=tags)


def _query_of(query: DCBQuery | None) -> headwater.Query | None:
    """None: every event matches, as with a query without items, or an item without members."""
    if query is None or not query.items:
        return None
    criteria: list[headwater.Criterion] = []
    for item in query.items:
        if not item.types and not item.tags:
            return None
        types = [type_of(each) for each in dict.fromkeys(item.types)]
        criteria.append(headwater.Criterion(types, list(dict.fromkeys(item.tags))))
    return headwater.Query(*criteria)
