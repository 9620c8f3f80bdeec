"""The infrastructure factory, which the library finds by PERSISTENCE_MODULE."""

from typing import Final

from eventsourcing.dcb.persistence import DCBInfrastructureFactory
from eventsourcing.persistence import AggregateRecorder, InfrastructureFactory
from eventsourcing.utils import Environment, EnvType, resolve_topic

from eventsourcing_headwater.datastore import Datastore
from eventsourcing_headwater.dcb import HeadwaterDCBRecorder
from eventsourcing_headwater.names import category_of
from eventsourcing_headwater.recorders import (
    HeadwaterAggregateRecorder,
    HeadwaterApplicationRecorder,
    HeadwaterSnapshotRecorder,
)
from eventsourcing_headwater.tracking import HeadwaterProcessRecorder, HeadwaterTrackingRecorder

URL_DEFAULT: Final = "headwater://localhost:4323"


class HeadwaterFactory(
    InfrastructureFactory[HeadwaterTrackingRecorder],
    DCBInfrastructureFactory[HeadwaterTrackingRecorder],
):
    """Makes the recorders of an application. They share one database.

    Settings, each also with the application's name in front as the library does it:
        HEADWATER_URL: where the server is. The default is headwater://localhost:4323.
        HEADWATER_CONTEXT: a namespace. Applications of another context see nothing of this one.
        HEADWATER_CA_FILE: certificates to trust, in PEM.
        HEADWATER_REQUEST_TIMEOUT: seconds to wait for an answer, 30 by default.
        HEADWATER_RETRY_TIMEOUT: seconds to keep retrying where that is safe, 30 by default.

    Raises:
        OSError: a setting is invalid.
    """

    HEADWATER_URL = "HEADWATER_URL"
    HEADWATER_CONTEXT = "HEADWATER_CONTEXT"
    HEADWATER_CA_FILE = "HEADWATER_CA_FILE"
    HEADWATER_REQUEST_TIMEOUT = "HEADWATER_REQUEST_TIMEOUT"
    HEADWATER_RETRY_TIMEOUT = "HEADWATER_RETRY_TIMEOUT"

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        self.category = category_of(self.env.name, self.env.get(self.HEADWATER_CONTEXT) or "")
        self.datastore = Datastore(
            self.env.get(self.HEADWATER_URL) or URL_DEFAULT,
            ca_file=self.env.get(self.HEADWATER_CA_FILE) or None,
            request_timeout=self._seconds(self.HEADWATER_REQUEST_TIMEOUT),
            retry_timeout=self._seconds(self.HEADWATER_RETRY_TIMEOUT),
        )

    def _seconds(self, name: str, default: float = 30.0) -> float:
        given = self.env.get(name)
        try:
            return float(given) if given else default
        except ValueError:
            raise OSError(f"{name}: expected a number of seconds, got {given!r}") from None

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        if purpose == "events":
            return HeadwaterAggregateRecorder(self.datastore, self.category)
        return HeadwaterSnapshotRecorder(self.datastore, self.category, purpose)

    def application_recorder(self) -> HeadwaterApplicationRecorder:
        topic = self.env.get(self.APPLICATION_RECORDER_TOPIC)
        kind = resolve_topic(topic) if topic else HeadwaterApplicationRecorder
        assert issubclass(kind, HeadwaterApplicationRecorder)
        return kind(self.datastore, self.category)

    def tracking_recorder(
        self, tracking_recorder_class: type[HeadwaterTrackingRecorder] | None = None
    ) -> HeadwaterTrackingRecorder:
        kind = tracking_recorder_class
        if kind is None:
            topic = self.env.get(self.TRACKING_RECORDER_TOPIC)
            kind = resolve_topic(topic) if topic else HeadwaterTrackingRecorder
        assert issubclass(kind, HeadwaterTrackingRecorder)
        return kind(self.datastore, self.category)

    def process_recorder(self) -> HeadwaterProcessRecorder:
        topic = self.env.get(self.PROCESS_RECORDER_TOPIC)
        kind = resolve_topic(topic) if topic else HeadwaterProcessRecorder
        assert issubclass(kind, HeadwaterProcessRecorder)
        return kind(self.datastore, self.category)

    def dcb_recorder(self) -> HeadwaterDCBRecorder:
        return HeadwaterDCBRecorder(self.datastore, self.category)

    def close(self) -> None:
        self.datastore.close()
