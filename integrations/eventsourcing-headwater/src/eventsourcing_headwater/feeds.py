"""A subscription that another thread can stop."""

from collections.abc import Iterator
from typing import Any

from eventsourcing.persistence import OperationalError

import headwater
from eventsourcing_headwater.datastore import Datastore, translated


class Feed(Iterator[headwater.RecordedEvent]):
    """The events of a subscription. stop() ends the iteration, from any thread.

    Raises:
        OperationalError: no server could be reached.
    """

    def __init__(self, datastore: Datastore, **wanted: Any) -> None:
        self._stopped = False
        with datastore.database() as database:
            self._subscription = database.subscribe(**wanted)
            self._subscription.__enter__()
        self._events = self._subscription.events()

    def stop(self) -> None:
        """End the iteration. A thread that waits for an event gets StopIteration."""
        self._stopped = True
        self._subscription.close()

    def __next__(self) -> headwater.RecordedEvent:
        if self._stopped:
            raise StopIteration
        try:
            event: headwater.RecordedEvent = next(self._events)
            return event
        except headwater.HeadwaterError as error:
            if self._stopped:
                raise StopIteration from None
            raise translated(error) from error
        except StopIteration:
            if self._stopped:
                raise
            raise OperationalError("the subscription ended") from None
