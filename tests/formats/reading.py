"""Reads everything in a database through a client, as plain JSON.

Two versions of Headwater that read the same directory must give the same results. Older versions
run this file too, so it uses only documented names of the client.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from headwater import BlockingDatabase, BlockingPast

SNAPSHOT_NAMES: Final = ("", "view")
SCHEMAS: Final = (1, 2)


def everything(
    db: BlockingDatabase, *, commits: Iterable[int], transactions: Iterable[str]
) -> dict[str, Any]:
    """The data of the database, now and at past *commits*, and the status of *transactions*."""
    return {
        "newest": _plain(db.ping().commit),
        "now": state_of(db),
        "events": [_plain(event) for event in db.read_all()],
        "backwards": [event.position for event in db.read_all(reverse=True)],
        "categories": _plain(list(db.categories())),
        "by_type": _positions(db, types=["Opened"]),
        "by_category": _positions(db, category="account"),
        "by_tag": _positions(db, tags=["branch:1"]),
        "commits": _plain(list(db.commits())),
        "users": sorted(db.users()),
        "groups": {name: _group(db, name) for name in _group_names(db)},
        "transactions": {each: _plain(db.status(each)) for each in transactions},
        "past": {str(commit): state_of(db.at(commit=commit)) for commit in commits},
    }


def state_of(db: BlockingDatabase | BlockingPast) -> dict[str, Any]:
    """Keys, streams and snapshots as of one commit."""
    streams = list(db.streams())
    return {
        "keys": [_plain(pair) for pair in db.scan()],
        "streams": _plain(streams),
        "read": {
            info.stream: [event.position for event in db.read(info.stream)] for info in streams
        },
        "loaded": {info.stream: _loaded(db, info.stream) for info in streams},
        "snapshots": _plain(list(db.snapshots())),
    }


def _loaded(db: BlockingDatabase | BlockingPast, stream: str) -> list[Any]:
    found = []
    for name in SNAPSHOT_NAMES:
        for schema in SCHEMAS:
            loaded = db.load(stream, schema=schema, name=name)
            later = [event.version for event in loaded.events]
            found.append([name, schema, loaded.version, _plain(loaded.snapshot), later])
    return found


def _positions(db: BlockingDatabase, **wanted: Any) -> list[int]:
    return [event.position for event in db.read_all(**wanted)]


def _group_names(db: BlockingDatabase) -> list[str]:
    return sorted(each.name for each in db.groups.list())


def _group(db: BlockingDatabase, name: str) -> dict[str, Any]:
    info = _plain(db.groups.info(name))
    # The fixtures are older than this figure, which is computed and not stored.
    del info["waiting"]
    return {"info": info, "parked": _plain(list(db.groups.parked(name)))}


def _plain(value: Any) -> Any:
    """A value as JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
