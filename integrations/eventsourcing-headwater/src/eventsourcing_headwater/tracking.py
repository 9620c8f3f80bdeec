"""Recorders of what was processed of other applications, alone and together with events.

An upstream application's key holds the last notification id that was processed. It only grows. The
recorder remembers the value and commits on the condition that the key still holds it, so recording
takes one round trip. After another process has recorded, a refusal makes it read again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from eventsourcing.persistence import (
    IntegrityError,
    ProcessRecorder,
    StoredEvent,
    Tracking,
    TrackingRecorder,
)

import headwater
from eventsourcing_headwater.datastore import Datastore
from eventsourcing_headwater.recorders import HeadwaterApplicationRecorder, Prepare

ATTEMPTS_MAX = 100
"""How often recording is tried again after another process has recorded in between."""


class _Refused(Exception):
    """A condition does not hold, probably that of the tracking. The cause tells which."""


class HeadwaterTrackingRecorder(TrackingRecorder):
    """What was processed of each upstream application.

    A subclass is the view of a projection: it writes its counters or rows with
    `insert_with_tracking`, in the transaction that records the tracking.
    """

    def __init__(self, datastore: Datastore, category: str) -> None:
        self.datastore = datastore
        self.category = category
        self._last: dict[str, int | None] = {}

    def insert_tracking(self, tracking: Tracking) -> None:
        def nothing_else(batch: headwater.Batch) -> None:
            del batch

        self.insert_with_tracking(tracking, nothing_else)

    def insert_with_tracking(self, tracking: Tracking, write: Prepare) -> None:
        """Record tracking, and what *write* adds to the batch, in one transaction.

        Raises:
            IntegrityError: this notification or a later one was recorded before.
        """

        def commit(prepare: Prepare) -> None:
            with self.datastore.database() as database:
                batch = database.batch()
                prepare(batch)
                write(batch)
                try:
                    database.execute(batch)
                except headwater.ConditionFailed as error:
                    raise _Refused from error

        self._track(tracking, commit)

    def _track(self, tracking: Tracking, commit: Callable[[Prepare], None]) -> None:
        """Call *commit* with the condition and the write of the tracking, until it holds."""
        name, wanted = tracking.application_name, tracking.notification_id
        key = self._key(name)
        last = self._last.get(name)
        if last is None:
            last = self.max_tracking_id(name)
        for _ in range(ATTEMPTS_MAX):
            if last is not None and wanted <= last:
                self._last[name] = last
                raise IntegrityError(f"{name} was processed up to {last}, so {wanted} is refused")

            def prepare(batch: headwater.Batch, last: int | None = last) -> None:
                if last is None:
                    batch.require_absent(key)
                else:
                    batch.require(key, msgpack.packb(last))
                batch.put(key, msgpack.packb(wanted))

            try:
                commit(prepare)
            except _Refused as error:
                remembered, last = last, self.max_tracking_id(name)
                if last == remembered:
                    # It was a condition of the caller's own.
                    raise IntegrityError(str(error.__cause__)) from error.__cause__
                continue
            self._last[name] = wanted
            return
        raise IntegrityError(f"{name}: others recorded {ATTEMPTS_MAX} times in between")

    def _key(self, application_name: str) -> tuple[str, ...]:
        return ("es", self.category, "tracking", application_name)

    def max_tracking_id(self, application_name: str) -> int | None:
        with self.datastore.database() as database:
            value = database.get(self._key(application_name))
            last: int | None = None if value is None else msgpack.unpackb(value)
            return last


class HeadwaterProcessRecorder(
    HeadwaterTrackingRecorder, HeadwaterApplicationRecorder, ProcessRecorder
):
    """Events and tracking in one transaction."""

    def __init__(self, datastore: Datastore, category: str) -> None:
        HeadwaterApplicationRecorder.__init__(self, datastore, category)
        HeadwaterTrackingRecorder.__init__(self, datastore, category)

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        tracking: Tracking | None = kwargs.get("tracking")
        if tracking is None:
            return super().insert_events(stored_events, **kwargs)
        positions: list[int] = []

        def commit(prepare: Prepare) -> None:
            if not stored_events:
                with self.datastore.database() as database:
                    batch = database.batch()
                    prepare(batch)
                    self._told_apart(database.execute, batch)
                return
            positions[:] = self._told_apart(self._insert, stored_events, prepare)

        self._track(tracking, commit)
        return positions

    def _told_apart(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except headwater.ConditionFailed as error:
            raise _Refused from error
        except IntegrityError as error:
            # A version that is taken, or the condition of the tracking: the cause tells.
            if isinstance(error.__cause__, headwater.ConditionFailed):
                raise _Refused from error
            raise
