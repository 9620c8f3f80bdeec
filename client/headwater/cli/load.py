"""`headwater load`: a dump goes back into a database.

Lines become transactions of up to a thousand of them, in the order of the file, over one
connection: so the events of the new database are in the order of the old one, and in an empty
database they get the positions that they had. Commit numbers and times are new.

A load that was interrupted can be run again, and each event is there once: it keeps its id, an
append of ids that are there counts as done, and the same file makes the same transactions. A
stream that has other events is met with WrongVersion or DuplicateEvent, and nothing of that
transaction is written. Keys and snapshots are set, whatever they were.
"""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import IO, Any, Final
from uuid import UUID

import click
from rich.progress import Progress

from headwater.batch import Batch
from headwater.blocking import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dump import FORMAT, progress_bars
from headwater.cli.tagged_json import from_json, value_from_json
from headwater.codec import RawCodec
from headwater.errors import HeadwaterError
from headwater.records import Event

LINES_A_COMMIT_MAX: Final = 1000
"""Lines in one transaction: enough that its sync costs little a line."""

SIZE_A_COMMIT_MAX: Final = 4 * 1024 * 1024
"""Bytes of lines in one transaction, except that one line may be larger."""


@click.command()
@connection_options
@click.argument("file", type=click.File("rb"))
def load(connector: Connector, file: IO[bytes]) -> None:
    """Read a dump back into a database.

    FILE is what `headwater dump` wrote; - is standard input. Run it again if it was interrupted:
    what is there already is not written twice.
    """
    with connector.connect(codec=RawCodec()) as db, progress_bars() as progress:
        counts = read_dump(db, file, progress)
    click.echo(
        f"{counts['keys']:,} keys, {counts['events']:,} events, {counts['snapshots']:,} snapshots",
        err=True,
    )


def read_dump(db: BlockingDatabase, file: IO[bytes], progress: Progress) -> dict[str, int]:
    """Load the lines of a dump; how many of each kind there were."""
    lines = enumerate(file, 1)
    header = _parse(*next(lines, (1, b"")))
    if header.get("headwater") != FORMAT:
        raise click.ClickException(
            f"{file.name}: not a dump of format {FORMAT}; its first line is {header!s:.80}"
        )
    counts = {"keys": 0, "events": 0, "snapshots": 0}
    bars = {
        "keys": progress.add_task("keys", total=None),
        "events": progress.add_task("events", total=header.get("events")),
        "snapshots": progress.add_task("snapshots", total=None),
    }
    end: dict[str, Any] | None = None
    for part in _parts(lines):
        if "end" in part[-1][1]:
            end = part.pop()[1]["end"]
        if part:
            _load_part(db, part)
        for kind, members in groupby(part, lambda line: _kind(line[1])):
            count = len(list(members))
            counts[kind] += count
            progress.advance(bars[kind], count)
    if end is None:
        raise click.ClickException(f"{file.name} ends early: its dump was cut off")
    if end != counts:
        raise click.ClickException(f"{file.name}: it says {end}, and has {counts}")
    return counts


def _load_part(db: BlockingDatabase, part: list[tuple[int, dict[str, Any]]]) -> None:
    first, last = part[0][0], part[-1][0]
    try:
        batch = db.batch()
        for stream, members in groupby(part, lambda line: line[1].get("stream")):
            if stream is not None:
                _append(batch, stream, [line for _, line in members])
                continue
            for _, line in members:
                _set(batch, line)
        db.execute(batch)
    except HeadwaterError as error:
        raise click.ClickException(f"lines {first} to {last}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(f"lines {first} to {last}: not of a dump: {error!r}") from error


def _append(batch: Batch, stream: str, lines: list[dict[str, Any]]) -> None:
    events = [
        Event(
            line["type"],
            value_from_json(line["data"]),
            value_from_json(line["metadata"]) if "metadata" in line else None,
            UUID(line["id"]),
        )
        for line in lines
    ]
    batch.append(stream, events, expect=lines[0]["version"] - 1)


def _set(batch: Batch, line: dict[str, Any]) -> None:
    if "key" in line:
        key = tuple(from_json(member) for member in line["key"])
        batch.put(key, value_from_json(line["value"]))
        return
    batch.save_snapshot(
        line["snapshot"],
        version=line["version"],
        state=value_from_json(line["state"]),
        schema=line["schema"],
        name=line["name"],
    )


def _parts(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Lines, some at a time, always cut at the same places."""
    part: list[tuple[int, dict[str, Any]]] = []
    size = 0
    for number, raw in lines:
        if part and (len(part) == LINES_A_COMMIT_MAX or size + len(raw) > SIZE_A_COMMIT_MAX):
            yield part
            part, size = [], 0
        part.append((number, _parse(number, raw)))
        size += len(raw)
    if part:
        yield part


def _parse(number: int, raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise click.ClickException(f"line {number} is no JSON: {error}") from error
    if not isinstance(line, dict):
        raise click.ClickException(f"line {number} is no line of a dump")
    return line


def _kind(line: dict[str, Any]) -> str:
    return "keys" if "key" in line else "events" if "stream" in line else "snapshots"
