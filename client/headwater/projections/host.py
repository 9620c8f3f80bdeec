"""The host of projections: the parts of a database that they use."""

from dataclasses import dataclass

from headwater.codecs.codec import Codec
from headwater.transport.channel import Channel


@dataclass(frozen=True, slots=True)
class Host:
    """A connected database. Each thread of the blocking face has its own.

    Attributes:
        channel: to the server.
        codec: of event data and of the values in read models.
    """

    channel: Channel
    codec: Codec
