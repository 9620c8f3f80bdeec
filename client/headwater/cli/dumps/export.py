"""`headwater export`: events or keys as Parquet, Arrow or JSON lines, for data tools."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.tagged_json import key_from_json
from headwater.cli.named import named
from headwater.cli.tables import ask, yes_option
from headwater.tables.arrow import BATCH_ROWS, event_schema, key_schema, pyarrow, record_batch
from headwater.tables.rows import Row, event_row, key_row
from headwater_protocol.keys import KeyTuple, decode_key

FORMATS: Final = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "jsonl"}
"""What the end of a file's name says."""


@click.command()
@connection_options
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(sorted(FORMATS.values())),
    help="The form of the file.  [default: by the end of its name]",
)
@click.option("--stream", help="Only events of this stream.")
@click.option("--category", help="Only events of streams of this category.")
@click.option("--prefix", help="Only events of streams whose names begin with this.")
@click.option("--type", "types", multiple=True, help="Only this type; may be repeated.")
@click.option("--tag", "tags", multiple=True, help="Only with this tag; may be repeated.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    help="Only events after this position: where an earlier export ended.",
)
@click.option("--keys", is_flag=True, help="Keys instead of events.")
@click.option(
    "--key-prefix", help="With --keys: only keys that begin so, as JSON: '[\"balance\"]'."
)
@click.option("--commit", type=click.IntRange(min=0), help="As of this commit.  [default: newest]")
@click.option("--codec", "codec_place", help="module:attribute of the application's own codec.")
@yes_option
def export(
    connector: Connector,
    file: Path,
    *,
    form: str | None,
    keys: bool,
    key_prefix: str | None,
    commit: int | None,
    codec_place: str | None,
    yes: bool,
    after: int,
    **given: Any,
) -> None:
    """Write events, or keys, to FILE as a table.

    Events have a row each, with data and metadata as JSON text. The last line says up to which
    position, for the --after of the next export. Parquet and Arrow need pyarrow: pip install
    "headwater[arrow]".

    The file is written beside FILE and then renamed, so FILE is whole or not there.
    """
    form = form or FORMATS.get(file.suffix)
    if form is None:
        raise click.UsageError(f"the name ends with none of {', '.join(FORMATS)}; give --format")
    filters: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value
    }
    if keys and (filters or after):
        raise click.UsageError("--keys takes no filter of events; it takes --key-prefix")
    if key_prefix is not None and not keys:
        raise click.UsageError("--key-prefix is for --keys")
    prefix = _prefix(key_prefix)
    if file.exists():
        ask(f"{file} exists. Replace it?", yes=yes)
    codec = None if codec_place is None else named(codec_place)
    with connector.connect(codec=codec) as db:
        place = db if commit is None else db.at(commit=commit)
        if keys:
            items: Any = place.scan(prefix)
            count = _write(file, form, map(key_row, items), key_schema)
            click.echo(f"{count:,} keys, as of commit {items.commit or 0}", err=True)
            return
        events = place.read_all(after=after, **filters)
        count = _write(file, form, map(event_row, events), event_schema)
        click.echo(f"{count:,} events, up to position {events.position or after}", err=True)


def _prefix(text: str | None) -> KeyTuple | None:
    if text is None:
        return None
    try:
        return decode_key(key_from_json(json.loads(text)))
    except (ValueError, TypeError, KeyError) as error:
        raise click.UsageError(f"--key-prefix: {text!r} is no key as JSON: {error}") from error


def _write(file: Path, form: str, rows: Iterator[Row], schema: Callable[[], Any]) -> int:
    """Write the rows, and return their number."""
    count = 0
    with _replacing(file) as output:
        if form == "jsonl":
            for row in rows:
                line = json.dumps(row, ensure_ascii=False, default=_iso) + "\n"
                output.write(line.encode())
                count += 1
            return count
        columns = schema()
        with _writer(output, form, columns) as write:
            while batch := list(islice(rows, BATCH_ROWS)):
                write(record_batch(batch, columns))
                count += len(batch)
    return count


def _iso(value: Any) -> str:
    return str(value.isoformat())


@contextmanager
def _writer(output: IO[bytes], form: str, columns: Any) -> Iterator[Callable[[Any], None]]:
    pyarrow()
    if form == "parquet":
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(output, columns, compression="zstd") as parquet:
            yield parquet.write_batch
        return
    from pyarrow.ipc import new_file

    with new_file(output, columns) as arrow:
        yield arrow.write_batch


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole. Only its owner can read it, as with a dump."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
