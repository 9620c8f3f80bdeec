"""The library's names as Headwater's, and back."""

import hashlib
from functools import lru_cache
from typing import Final
from uuid import UUID, SafeUUID

import msgpack

NAME_SIZE_MAX: Final = 256
"""UTF-8 bytes of an event type or a tag, as Headwater documents it."""

_HASHED: Final = "#"
"""A type that begins with this is the hash of a topic, which is in the event's metadata."""


def category_of(application: str, context: str = "") -> str:
    """The category of an application. A category ends at the first "-", so names may have none."""
    name = _escaped(application or "eventsourcing")
    return f"{_escaped(context, dots=True)}.{name}" if context else name


def _escaped(name: str, *, dots: bool = False) -> str:
    # Without the escaped dot, context "a.b" with "c" would be context "a" with "b.c".
    name = name.replace("%", "%25").replace("-", "%2D").replace("\x00", "%00")
    return name.replace(".", "%2E") if dots else name


def stream_of(category: str, originator_id: UUID | str) -> str:
    """The stream of an aggregate. UUIDs and strings that look like one are told apart."""
    if isinstance(originator_id, UUID):
        return f"{category}-u{originator_id.hex}"
    return f"{category}-s{originator_id}"


def originator_of(category: str, stream: str) -> UUID | str:
    """The inverse of stream_of."""
    start = len(category) + 1
    name = stream[start + 1 :]
    if stream[start] != "u":
        return name
    # Takes a third of the time of UUID(hex=name), and a page of notifications has hundreds.
    originator_id = UUID.__new__(UUID)
    object.__setattr__(originator_id, "int", int(name, 16))
    object.__setattr__(originator_id, "is_safe", SafeUUID.unknown)
    return originator_id


@lru_cache(maxsize=4096)
def type_of(topic: str) -> str:
    """The event type of a topic: the topic itself, or its hash if Headwater does not accept it."""
    size = len(topic.encode(errors="surrogatepass"))
    if 0 < size <= NAME_SIZE_MAX and "\x00" not in topic and not topic.startswith(_HASHED):
        return topic
    return _HASHED + hashlib.sha256(topic.encode(errors="surrogatepass")).hexdigest()


def metadata_of(topic: str, kind: str, offset: int) -> bytes | None:
    """What type and version of an event do not say: [offset, topic]. None if they say it all.

    *offset* is the originator's version less the stream's: 0 for aggregates whose first version is
    1, as the library's, and -1 for those that begin with 0.
    """
    if offset == 0 and kind == topic:
        return None
    packed: bytes = msgpack.packb([offset, None if kind == topic else topic])
    return packed


def topic_and_offset(kind: str, metadata: bytes | None) -> tuple[str, int]:
    """The inverse of metadata_of."""
    if not metadata:
        return kind, 0
    offset, topic = msgpack.unpackb(metadata)
    return kind if topic is None else topic, offset
