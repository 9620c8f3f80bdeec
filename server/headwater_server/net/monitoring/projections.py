"""Figures of projections, read from the keys in which clients store their progress.

    ("$projection", name)           the head: the build that readers see
    ("$projection", name, build)    the progress of a build: position, parked streams

The server knows nothing else of projections: their handlers run in clients. So what is stored there
may be anything, and what is not understood is left out.
"""

from typing import Any, Final

import msgpack

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.keys import decode_key, prefix_range
from headwater_protocol.messages import array_header
from headwater_server.engine.engine import Engine

_PREFIX: Final = "$projection"

_KEYS_PER_PROJECTION: Final = 4
"""Keys that are read for each projection: its head and its builds."""


def projection_figures(engine: Engine, count_max: int) -> list[tuple[str, int, int]]:
    """Name, position and parked streams of the first projections in order of name."""
    first, last = prefix_range((_PREFIX,))
    heads: dict[str, Any] = {}
    builds: dict[tuple[str, Any], Any] = {}
    page = engine.reader().scan(first, last, count_max * _KEYS_PER_PROJECTION, False)
    items = msgpack.unpackb(array_header(2 * page.key_count) + page.packed)
    for key, value in zip(items[::2], items[1::2], strict=True):
        try:
            members, record = decode_key(key), msgpack.unpackb(value, strict_map_key=False)
        except (HeadwaterError, ValueError, msgpack.UnpackException):
            continue
        if len(members) == 2:
            heads[str(members[1])] = record
        elif len(members) == 3:
            builds[str(members[1]), members[2]] = record
    found: list[tuple[str, int, int]] = []
    for name, head in heads.items():
        try:
            progress = builds[name, head["build"][0]]
            found.append((name, int(progress["position"]), int(progress["parked"])))
        except (KeyError, IndexError, TypeError, ValueError):
            continue
    return found[:count_max]
