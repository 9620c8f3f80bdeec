"""Events and keys as rows of plain values, one member for each column.

Data that the codec cannot decode is None, and the row says so, so that one bad event or value does
not keep all others from being read.
"""

from typing import Any

from headwater.errors import Undecodable
from headwater.records import RecordedEvent
from headwater.tables.plain_json import plain_json
from headwater_protocol.keys import KeyTuple

Row = dict[str, Any]


def event_row(event: RecordedEvent) -> Row:
    """The columns of an event. Data and metadata are JSON text."""
    data = metadata = None
    undecodable = False
    try:
        if not event.erased:
            data = plain_json(event.data)
        if event.metadata is not None:
            metadata = plain_json(event.metadata)
    except Undecodable:
        data, undecodable = None, True
    return {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "commit": event.commit,
        "time": event.time,
        "id": str(event.id),
        "type": event.type,
        "data": data,
        "metadata": metadata,
        "tags": list(event.tags),
        "erased": event.erased,
        "undecodable": undecodable,
    }


def key_row(item: tuple[KeyTuple, Any]) -> Row:
    """The columns of a key: its members and its value, both as JSON text."""
    key, value = item
    return {"key": plain_json(key), "value": plain_json(value)}
