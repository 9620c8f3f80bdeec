"""`headwater verify-snapshots`: compare the snapshots of an aggregate with its events."""

from typing import Any

import click

from headwater.aggregates.repository import Repository
from headwater.aggregates.snapshot_check import Checked, check_snapshots
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.named import named
from headwater.transport.stepping import step


@click.command("verify-snapshots")
@click.argument("aggregate")
@click.option("--codec", "codec_place", help="module:attribute of the application's own codec.")
@click.option("--prefix", default="", help="Only streams whose names begin with this.")
@connection_options
def verify_snapshots(
    connector: Connector, aggregate: str, codec_place: str | None, prefix: str
) -> None:
    """Replay every stream that has snapshots of AGGREGATE, and compare.

    AGGREGATE is module:attribute and names a headwater.Repository. Its snapshots of the current
    schema are checked. The command lists each snapshot that differs from the replayed state, and
    each truncated stream that cannot be loaded because it has no such snapshot. Then the exit code
    is 1.
    """
    repository = named(aggregate)
    if not isinstance(repository, Repository):
        raise click.BadParameter(
            f"{aggregate} is not a headwater.Repository but a {type(repository).__name__}"
        )
    codec = None if codec_place is None else named(codec_place)
    counts = {"equal": 0, "differs": 0, "unreadable": 0, "gone": 0, "missing": 0}

    async def check_all() -> None:
        # The asynchronous database inside of the blocking one.
        async for checked in check_snapshots(db._core, repository, prefix=prefix):  # noqa: SLF001
            counts[checked.verdict] += 1
            _tell(checked)

    with connector.connect(codec=codec) as db:
        step(check_all())
    missing = counts.pop("missing")
    click.echo(
        f"{sum(counts.values())} snapshots: {counts['equal']} equal, {counts['differs']} differ, "
        f"{counts['unreadable']} unreadable, {counts['gone']} of truncated events"
    )
    if missing:
        click.echo(f"{missing} truncated streams have no snapshot of schema {repository.schema}")
    if missing or counts["differs"] or counts["unreadable"]:
        raise SystemExit(1)


def _tell(checked: Checked) -> None:
    place = f"{checked.stream} at version {checked.version}"
    match checked.verdict:
        case "equal":
            pass
        case "differs":
            click.echo(
                f"{place}: the snapshot has {_shown(checked.kept)}, but the replay gives "
                f"{_shown(checked.replayed)}"
            )
        case "unreadable":
            click.echo(f"{place}: the snapshot cannot be decoded; loading ignores it")
        case "gone":
            click.echo(f"{place}: not verified, because events before it were truncated")
        case "missing":
            click.echo(
                f"{place}: it was truncated and has no snapshot of this schema: it cannot be loaded"
            )


def _shown(state: Any) -> str:
    text = repr(state)
    return text if len(text) <= 200 else f"{text[:200]}…"
