"""`headwater get`: shows the value of a key, or the keys that begin with a prefix."""

import json
from collections.abc import Iterator

import click

from headwater.blocking.past import BlockingPast
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.dump import stored_keys
from headwater.cli.dumps.tagged_json import key_from_json, key_to_json, value_to_json
from headwater.cli.tables import Row, json_line, json_option, show
from headwater.codecs.codec import RawCodec
from headwater.errors import HeadwaterError
from headwater.reads.key_ranges import key_range
from headwater.transport.stepping import step
from headwater_protocol.keys import decode_key


@click.command()
@connection_options
@json_option
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY. Without KEY: all keys.")
@click.option("--limit", type=click.IntRange(min=1), help="The maximum number of keys of a prefix.")
@click.option("--commit", type=click.IntRange(min=0), help="As of this commit.  [default: newest]")
@click.argument("key", nargs=-1)
def get(
    connector: Connector,
    key: tuple[str, ...],
    *,
    prefix: bool,
    limit: int | None,
    commit: int | None,
    as_json: bool,
) -> None:
    """Show the value of a key, as JSON.

    Give the members of the key as text: `headwater get balance ann`. If a member has another type,
    give the whole key as JSON, as in a dump: `headwater get '["visits", 7]'`.

    Types that JSON lacks have a tag, as in a dump. The command works with every codec that an
    application may use. Exit status 1: there is no such key.
    """
    if not key and not prefix:
        raise click.UsageError("give a key, or --prefix")
    if limit is not None and not prefix:
        raise click.UsageError("--limit without --prefix")
    encoded = _encoded(key)
    with connector.connect(codec=RawCodec()) as db:
        past = db.at(commit=db.ping().commit if commit is None else commit)
        if prefix:
            show(("key", "value"), _rows(past, encoded, limit, as_json), as_json=as_json)
            return
        value: bytes | None = step(past._core._fetch("get", encoded))  # noqa: SLF001
    if value is None:
        raise click.ClickException(f"there is no key {' '.join(key)}")
    shown = value_to_json(value)
    click.echo(json_line({"key": key_to_json(encoded), "value": shown} if as_json else shown))


def _encoded(members: tuple[str, ...]) -> bytes:
    """The encoded key, or b"" for the prefix of all keys."""
    if not members:
        return b""
    tagged: object = list(members)
    if len(members) == 1 and members[0][:1] in ("[", "{"):
        try:
            tagged = json.loads(members[0])
        except ValueError as error:
            raise click.BadParameter(f"{members[0]}: not JSON: {error}") from error
    try:
        return key_from_json(tagged)
    except (HeadwaterError, ValueError, TypeError, KeyError) as error:
        raise click.BadParameter(f"{' '.join(members)}: not a key: {error}") from error


def _rows(past: BlockingPast, encoded: bytes, limit: int | None, as_json: bool) -> Iterator[Row]:
    first, last = (b"", None) if not encoded else key_range(decode_key(encoded), None, None)
    for key, value in stored_keys(past, first, last, limit):
        row: Row = {"key": key_to_json(key), "value": value_to_json(value)}
        yield row if as_json else {name: json_line(shown) for name, shown in row.items()}
