"""`headwater load`: reads a dump back into a database.

Up to a thousand lines at a time become a transaction, in the order of the file, over one
connection. So events keep their order, and in an empty database they get the positions that they
had, even where events were hidden (headwater.cli.dumps.removed). Commit numbers and times are new.

An interrupted load can be repeated, and each event is still stored once: events keep their ids, and
an append of existing ids counts as done. If the lines were divided differently, a part of a
transaction may exist; then existing events are compared and skipped. If a stream has other events,
nothing of that transaction is written, and the load stops. Keys and snapshots are overwritten.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, Final
from uuid import UUID

import click
from rich.progress import Progress

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dump import FORMAT, progress_bars
from headwater.cli.dumps.removed import Removed
from headwater.cli.dumps.tagged_json import key_from_json, value_from_json
from headwater.codecs.codec import RawCodec
from headwater.errors import DuplicateEvent, HeadwaterError, WrongVersion
from headwater.records import Event, RecordedEvent
from headwater.transactions.batch import Batch
from headwater_protocol.numbers import NO_STREAM
from headwater_protocol.operations import WRITE

LINES_A_COMMIT_MAX: Final = 1000
"""The most lines in one transaction: enough that the sync costs little for each."""

SIZE_A_COMMIT_MAX: Final = 4 * 1024 * 1024
"""The most bytes of lines in one transaction, unless a single line is larger."""


@click.command()
@connection_options
@click.argument("file", type=click.File("rb"))
def load(connector: Connector, file: IO[bytes]) -> None:
    """Read a dump back into a database.

    FILE is the output of `headwater dump`; - is standard input. After an interruption run it again:
    existing events are not written twice.
    """
    with connector.connect(codec=RawCodec()) as db, progress_bars() as progress:
        counts = read_dump(db, file, progress)
    click.echo(
        f"{counts['keys']:,} keys, {counts['events']:,} events, {counts['snapshots']:,} snapshots",
        err=True,
    )


def read_dump(db: BlockingDatabase, file: IO[bytes], progress: Progress) -> dict[str, int]:
    """Load the lines of a dump. Returns the number of lines of each kind."""
    lines = enumerate(file, 1)
    header = _parse(*next(lines, (1, b"")))
    if header.get("headwater") != FORMAT:
        raise click.ClickException(
            f"not a dump of format {FORMAT}; its first line is {header!s:.80}"
        )
    name = getattr(file, "name", "-")
    counts = {"keys": 0, "events": 0, "snapshots": 0}
    bars = {
        "keys": progress.add_task("keys", total=None),
        "events": progress.add_task("events", total=header.get("events")),
        "snapshots": progress.add_task("snapshots", total=None),
    }
    end: dict[str, Any] | None = None
    removed = Removed(db)
    for part in _parts(lines):
        if "end" in part[-1][1]:
            end = part.pop()[1]["end"]
        if part:
            _load_part(db, part, removed)
        for kind, members in groupby(part, lambda line: _kind(line[1])):
            count = len(list(members))
            counts[kind] = counts.get(kind, 0) + count
            if kind in bars:
                progress.advance(bars[kind], count)
    if end is None:
        raise click.ClickException(f"{name} ends early: the dump is incomplete")
    removed.finish(header.get("events", 0))
    if end != counts:
        raise click.ClickException(f"{name}: its last line says {end}, but it has {counts}")
    return counts


def _load_part(
    db: BlockingDatabase, part: list[tuple[int, dict[str, Any]]], removed: Removed
) -> None:
    first, last = part[0][0], part[-1][0]
    lines = [line for _, line in part]
    try:
        try:
            _write_placeholders(removed, lines)
            db.execute(_batch(db, lines, removed))
        except (DuplicateEvent, WrongVersion):
            missing = _missing(db, lines)
            if len(missing) == len(lines):
                raise
            if missing:
                db.execute(_batch(db, missing, removed))
        _erase(db, lines)
        _save_snapshots(db, lines)
    except HeadwaterError as error:
        raise click.ClickException(f"lines {first} to {last}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(
            f"lines {first} to {last}: not lines of a dump: {error!r}"
        ) from error


def _write_placeholders(removed: Removed, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        if "retention" in line:
            removed.expect(line)
        elif "stream" in line:
            removed.before(line)


def _erase(db: BlockingDatabase, lines: list[dict[str, Any]]) -> None:
    versions: dict[str, list[int]] = {}
    for line in lines:
        if line.get("erased"):
            versions.setdefault(line["stream"], []).append(line["version"])
    for stream, erased in versions.items():
        db.erase(stream, versions=erased)


def _save_snapshots(db: BlockingDatabase, lines: list[dict[str, Any]]) -> None:
    """Save the snapshots, after the erasures: an erasure removes those that were saved before."""
    batch = db.batch()
    # Those of a dump hold nothing that was erased in it, so they are as good as new.
    read_at = db.ping().commit if any("snapshot" in line for line in lines) else 0
    for line in lines:
        if "snapshot" in line:
            batch.save_snapshot(
                line["snapshot"],
                version=line["version"],
                state=value_from_json(line["state"]),
                schema=line["schema"],
                name=line["name"],
                read_at=read_at,
            )
    if read_at:
        db.execute(batch)


def _batch(db: BlockingDatabase, lines: list[dict[str, Any]], removed: Removed) -> Batch:
    batch = db.batch()
    lines = [line for line in lines if "retention" not in line and "snapshot" not in line]
    for stream, members in groupby(lines, lambda line: line.get("stream")):
        if stream is None:
            for line in members:
                _set(batch, line)
            continue
        first, *rest = members
        events = [_event(line) for line in (first, *rest)]
        version = first["version"]
        # A stream that begins later was deleted before, so it does not exist.
        expect = NO_STREAM if removed.begins.get(stream) == version else version - 1
        batch.append(stream, events, expect=expect)
    return batch


def _missing(db: BlockingDatabase, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All lines except those of events that exist already, at the same version."""
    existing: dict[tuple[str, int], RecordedEvent] = {}
    spans: dict[str, tuple[int, int]] = {}
    for line in lines:
        if "stream" in line:
            first, _ = spans.get(line["stream"], (line["version"], 0))
            spans[line["stream"]] = first, line["version"]
    for stream, (first, last) in spans.items():
        for event in db.read(stream, after=first - 1, limit=last - first + 1):
            existing[stream, event.version] = event
    return [
        line
        for line in lines
        if "stream" not in line
        or not _is_same(existing.get((line["stream"], line["version"])), _event(line))
    ]


def _is_same(stored: RecordedEvent | None, event: Event) -> bool:
    """Whether an event of the dump is stored already. Of an erased one, only the rest is left."""
    if stored is None or stored.id != event.id or stored.type != event.type:
        return False
    if stored.tags != event.tags:
        return False
    return stored.erased or (stored.data, stored.metadata) == (event.data, event.metadata)


def _event(line: dict[str, Any]) -> Event:
    return Event(
        line["type"],
        b"" if line.get("erased") else value_from_json(line["data"]),
        value_from_json(line["metadata"]) if "metadata" in line else None,
        UUID(line["id"]),
        tuple(line.get("tags", ())),
    )


def _set(batch: Batch, line: dict[str, Any]) -> None:
    key, value = key_from_json(line["key"]), value_from_json(line["value"])
    WRITE.variants["put"]([key, value], "put")
    batch._keep(["put", key, value], len(key) + len(value))  # noqa: SLF001


def _parts(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Divide the lines into parts. The same file is always divided in the same way."""
    part: list[tuple[int, dict[str, Any]]] = []
    size = 0
    for number, raw in lines:
        line = _parse(number, raw)
        full = len(part) == LINES_A_COMMIT_MAX or size + len(raw) > SIZE_A_COMMIT_MAX
        # An event with a position follows a gap, which is filled before this part.
        if part and (full or ("stream" in line and "position" in line)):
            yield part
            part, size = [], 0
        part.append((number, line))
        size += len(raw)
    if part:
        yield part


def _parse(number: int, raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise click.ClickException(f"line {number} is not JSON: {error}") from error
    if not isinstance(line, dict):
        raise click.ClickException(f"line {number} is not a line of a dump")
    return line


def _kind(line: dict[str, Any]) -> str:
    for word, kind in (("key", "keys"), ("stream", "events"), ("retention", "retention")):
        if word in line:
            return kind
    return "snapshots"
