"""The lines of a dump, and what they stand for.

headwater.cli.dumps.dump describes them.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.dumps.tagged_json import key_from_json, value_from_json
from headwater.records import Event, RecordedEvent, microseconds_of
from headwater.transactions.batch import Batch
from headwater_protocol.numbers import NO_STREAM
from headwater_protocol.operations import WRITE

Line = dict[str, Any]

LINES_A_COMMIT_MAX: Final = 1000
"""The most lines in one part: enough that the sync costs little for each."""

SIZE_A_COMMIT_MAX: Final = 4 * 1024 * 1024
"""The most bytes of lines in one part, unless a single line is larger."""


def parts_of(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, Line]]]:
    """Divide the lines into parts. The same file is always divided in the same way."""
    part: list[tuple[int, Line]] = []
    size = 0
    for number, raw in lines:
        line = parse(number, raw)
        kind = kind_of(line)
        full = len(part) == LINES_A_COMMIT_MAX or size + len(raw) > SIZE_A_COMMIT_MAX
        # An event with a position follows a gap, which is filled before this part.
        after_gap = kind == "events" and "position" in line
        # Groups and users are not written by transactions.
        before = kind_of(part[-1][1]) if part else kind
        divided = before != kind != "end" and {before, kind} & {"groups", "users", "roles"}
        if part and (full or after_gap or divided):
            yield part
            part, size = [], 0
        part.append((number, line))
        size += len(raw)
    if part:
        yield part


def parse(number: int, raw: bytes) -> Line:
    """A line of a file."""
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise click.ClickException(f"line {number} is not JSON: {error}") from error
    if not isinstance(line, dict):
        raise click.ClickException(f"line {number} is not a line of a dump")
    return line


_KINDS: Final = {
    "key": "keys",
    "stream": "events",
    "retention": "retention",
    "group": "groups",
    "user": "users",
    "role": "roles",
    "end": "end",
}


def kind_of(line: Line) -> str:
    """What a line describes, as its last line counts it."""
    for word, kind in _KINDS.items():
        if word in line:
            return kind
    return "snapshots"


def time_of(line: Line) -> int | None:
    """The time of an event, in microseconds; None for other lines."""
    if "stream" not in line or "time" not in line:
        return None
    return microseconds_of(datetime.fromisoformat(line["time"]), "time")


def event_of(line: Line) -> Event:
    """The event of a line; without data if that was erased."""
    return Event(
        line["type"],
        b"" if line.get("erased") else value_from_json(line["data"]),
        value_from_json(line["metadata"]) if "metadata" in line else None,
        UUID(line["id"]),
        tuple(line.get("tags", ())),
    )


def is_same(stored: RecordedEvent | None, event: Event) -> bool:
    """Whether an event of the dump is stored already. Of an erased one, only the rest is left."""
    if stored is None or stored.id != event.id or stored.type != event.type:
        return False
    if stored.stored_tags != event.tags:
        return False
    return stored.erased or (stored.data, stored.metadata) == (event.data, event.metadata)


def batch_of(
    db: BlockingDatabase, lines: list[Line], begins: Mapping[str, int], *, overwrite: bool
) -> Batch:
    """A batch that writes keys and events. Unless *overwrite*: the keys must be new.

    *begins* has the versions at which streams begin that had events hidden.
    """
    batch = db.batch()
    for stream, members in groupby(lines, lambda line: line.get("stream")):
        if stream is None:
            for line in members:
                if "key" in line:
                    _put(batch, line, overwrite=overwrite)
            continue
        first, *rest = members
        events = [event_of(line) for line in (first, *rest)]
        version = first["version"]
        # A stream that begins later was deleted before, so it does not exist.
        expect = NO_STREAM if begins.get(stream) == version else version - 1
        batch.append(stream, events, expect=expect)
    return batch


def _put(batch: Batch, line: Line, *, overwrite: bool) -> None:
    key, value = key_from_json(line["key"]), value_from_json(line["value"])
    WRITE.variants["put"]([key, value], "put")
    if not overwrite:
        batch._require(["value", key, None])  # noqa: SLF001
    batch._keep(["put", key, value], len(key) + len(value))  # noqa: SLF001
    if "expires_at" in line:
        at = microseconds_of(datetime.fromisoformat(line["expires_at"]), "expires_at")
        batch._keep(["expire", key, None, at], len(key))  # noqa: SLF001


def save_snapshots(db: BlockingDatabase, lines: list[Line]) -> None:
    """Save snapshots. To be called after the erasures, which remove those that were saved before.

    Those of a dump hold nothing that was erased in it, so they are as good as new.
    """
    if not lines:
        return
    batch = db.batch()
    read_at = db.ping().commit
    for line in lines:
        batch.save_snapshot(
            line["snapshot"],
            version=line["version"],
            state=value_from_json(line["state"]),
            schema=line["schema"],
            name=line["name"],
            read_at=read_at,
        )
    db.execute(batch)
