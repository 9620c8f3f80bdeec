"""Persistence for the library `eventsourcing` on Headwater.

    PERSISTENCE_MODULE=eventsourcing_headwater
    HEADWATER_URL=headwater://127.0.0.1:4323

| what the library has | what Headwater has |
|---|---|
| stored event of an aggregate | event of the stream `CATEGORY-ORIGINATOR`, at the same version |
| notification id | position; ids of an application have gaps where others write to the server |
| snapshot | key `("es", CATEGORY, "snapshots", ORIGINATOR, VERSION)` |
| tracking | key `("es", CATEGORY, "tracking", UPSTREAM)` |
| event of a dynamic consistency boundary | event of the stream `CATEGORY-dcb` |

The category is the application's name, after HEADWATER_CONTEXT and a dot if that is set. So several
applications, and several installations of one application, share a server undisturbed.
"""

from eventsourcing_headwater.dcb import HeadwaterDCBRecorder
from eventsourcing_headwater.factory import HeadwaterFactory
from eventsourcing_headwater.recorders import (
    HeadwaterAggregateRecorder,
    HeadwaterApplicationRecorder,
    HeadwaterSnapshotRecorder,
)
from eventsourcing_headwater.tracking import HeadwaterProcessRecorder, HeadwaterTrackingRecorder

__all__ = [
    "HeadwaterAggregateRecorder",
    "HeadwaterApplicationRecorder",
    "HeadwaterDCBRecorder",
    "HeadwaterFactory",
    "HeadwaterProcessRecorder",
    "HeadwaterSnapshotRecorder",
    "HeadwaterTrackingRecorder",
]
