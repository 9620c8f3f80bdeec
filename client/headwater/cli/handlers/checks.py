"""Commands that run the handlers of projections again, and write nothing.

`headwater projection diff` compares a model with what other code makes of the same events.
`headwater verify-projections` looks for handlers whose result depends on anything but the events.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import click

from headwater.blocking.handlers import stepped_handler
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.handlers.application import Application, handler_options
from headwater.cli.named import named
from headwater.codecs.codec import Codec, decode_with
from headwater.database import Database
from headwater.errors import InvalidArgument, Undecodable
from headwater.projections.comparing import (
    Difference,
    Replayed,
    Stored,
    differences,
    disagreements,
    newest_commit,
    replayed,
    stored_at,
)
from headwater.projections.follower import Projection
from headwater.projections.host import Host
from headwater.transport.stepping import step

DIFFERENCES_SHOWN_MAX: Final = 100
"""Differences that are printed; all are counted."""


@click.command()
@connection_options
@click.option(
    "--code",
    required=True,
    metavar="MODULE:HANDLER",
    help="The handler to compare with: handler(tx, event), a `def` or an `async def`.",
)
@click.option("--as-of", type=click.IntRange(min=1), help="A commit. The default is the newest.")
@click.option("--batched", is_flag=True, help="The handler takes a list of events.")
@click.option("--codec", "codec_place", help="module:attribute of the application's codec.")
@click.argument("name")
def diff(
    connector: Connector,
    name: str,
    code: str,
    as_of: int | None,
    batched: bool,
    codec_place: str | None,
) -> None:
    """Show what other code would make of the events of projection NAME.

    The handler runs over the events that the model was made of, in the memory of this command.
    Nothing is written. Exit status 1: the models differ.
    """
    handler = named(code)
    if not callable(handler):
        raise click.BadParameter(f"{code} is not a function")
    codec = None if codec_place is None else named(codec_place)
    waits = inspect.iscoroutinefunction(handler)

    async def compare(host: Host) -> int:
        commit = await newest_commit(host) if as_of is None else as_of
        stored = await stored_at(host, name, commit)
        one = _projection(name, handler if waits else stepped_handler(handler), stored, batched)
        done = await replayed(host, one, stored, commit)
        click.echo(
            f"{name}, version {stored.build.version}, build {stored.build.number}, at commit "
            f"{commit}: {done.events} events up to position {stored.position}"
        )
        _tell_notes(done)
        count = 0
        async for each in differences(host, name, stored, commit, done):
            count += 1
            if count <= DIFFERENCES_SHOWN_MAX:
                click.echo(_line(host.codec, each, "stored", "this code"))
        _tell_more(count)
        click.echo("the models are equal" if not count else f"{count} keys differ")
        return count

    if _with_host(connector, codec, compare, waits=waits):
        raise SystemExit(1)


def _projection(
    name: str, handler: Callable[..., Awaitable[None]], stored: Stored, batched: bool
) -> Projection:
    return Projection(
        name=name,
        handler=handler,
        wanted=stored.build.wanted,
        version=stored.build.version,
        batched=batched,
        batch_size=1,
        batch_seconds=1.0,
        attempts=1,
    )


def _with_host(
    connector: Connector,
    codec: Codec | None,
    work: Callable[[Host], Coroutine[Any, Any, int]],
    *,
    waits: bool,
) -> int:
    """Call a function with a connected database, on an event loop if the handler waits."""
    if not waits:
        with connector.connect(codec=codec) as blocking:
            return step(work(blocking._core._host()))  # noqa: SLF001

    async def run() -> int:
        async with connector.connect_async(codec=codec) as db:
            return await work(db._host())  # noqa: SLF001

    return asyncio.run(run())


@click.command("verify-projections")
@connection_options
@handler_options
@click.argument("names", nargs=-1)
def verify_projections(
    connector: Connector,
    names: tuple[str, ...],
    *,
    app_place: str,
    codec_place: str | None,
    blocking: bool,
) -> None:
    """Run the handlers of projections twice, and compare: with each other, and with the model.

    Without NAMES: all projections that the application defines. Two runs that differ show a handler
    whose result depends on something else than the events, such as the time, chance, or the order
    of a set. A model that differs from both was made by other code. Nothing is written. Exit status
    1: something differs.
    """
    app = Application(connector, app_place, codec_place, blocking)

    async def verify(db: Database) -> int:
        host, wrong = db._host(), 0  # noqa: SLF001
        commit = await newest_commit(host)
        for one in db.projections.defined(*names):
            wrong += await _verify(host, one, commit)
        return wrong

    # The asynchronous database inside of the blocking one.
    if app.call(lambda db: step(verify(db._core)), verify):  # noqa: SLF001
        raise SystemExit(1)


async def _verify(host: Host, projection: Projection, commit: int) -> int:
    """Verify one projection. Returns 1 if something differs."""
    name = projection.name
    try:
        stored = await stored_at(host, name, commit)
    except InvalidArgument:
        click.echo(f"{name}: it never ran")
        return 0
    if dict(stored.build.wanted) != dict(projection.wanted):
        click.echo(f"{name}: the model was made of other events than the application defines")
        return 1
    first = await replayed(host, projection, stored, commit)
    second = await replayed(host, projection, stored, commit)
    _tell_notes(first)
    unsure = disagreements(name, stored, first, second)
    for each in unsure[:DIFFERENCES_SHOWN_MAX]:
        click.echo(_line(host.codec, each, "first run", "second run"))
    _tell_more(len(unsure))
    if unsure:
        click.echo(f"{name}: not deterministic: two runs differ in {len(unsure)} keys")
        return 1
    count = 0
    async for each in differences(host, name, stored, commit, first):
        count += 1
        if count <= DIFFERENCES_SHOWN_MAX:
            click.echo(_line(host.codec, each, "stored", "this code"))
    _tell_more(count)
    if count:
        version = ""
        if stored.build.version != projection.version:
            version = f" (version {stored.build.version}; the code has {projection.version})"
        click.echo(f"{name}: both runs are equal, but the model{version} differs in {count} keys")
        return 1
    click.echo(f"{name}: equal, {first.events} events")
    return 0


def _tell_notes(done: Replayed) -> None:
    for position, stream, reason in done.failed[:DIFFERENCES_SHOWN_MAX]:
        click.echo(f"failed at position {position} of {stream}: {' '.join(reason.split())}")
    for word, count in sorted(done.recording.unrecorded.items()):
        click.echo(f"not compared: {count} writes of the kind {word}")
    if done.recording.outside:
        count = sum(done.recording.outside.values())
        click.echo(f"{count} reads outside of the model saw the database as of the commit")


def _tell_more(count: int) -> None:
    if count > DIFFERENCES_SHOWN_MAX:
        click.echo(f"… and {count - DIFFERENCES_SHOWN_MAX} more")


def _line(codec: Codec, each: Difference, one: str, other: str) -> str:
    return f"{each.key!r}: {one} {_shown(codec, each.first)}, {other} {_shown(codec, each.second)}"


def _shown(codec: Codec, stored: bytes | None) -> str:
    if stored is None:
        return "absent"
    try:
        text = repr(decode_with(codec, stored, "value"))
    except Undecodable:
        text = f"undecodable {stored!r}"
    return text if len(text) <= 200 else f"{text[:200]}…"
