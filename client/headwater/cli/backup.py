"""`headwater backup`: let a server make a backup of its data; list backups, and remove old ones.

`list` and `prune` work on a directory of backups of this machine, without a server. They call the
entry point "backups" of the group "headwater.offline", which the server's package offers.
"""

import importlib.metadata
from typing import Any, Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import ask, json_line, json_option, show, yes_option

ANSWER_S_MAX: Final = 24 * 3600.0
"""Seconds that a backup may take. A day is enough to copy terabytes. If the server goes away, the
connection ends, and so does the wait."""

OFFLINE: Final = "headwater.offline"

_COLUMNS: Final = ("name", "made", "commit", "position", "size", "copied", "problem")


class _MakeByDefault(click.Group):
    """A group in which anything but the name of a command is the name of a backup to make."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


def _offline() -> Any:
    for point in importlib.metadata.entry_points(group=OFFLINE, name="backups"):
        return point.load()
    raise click.ClickException('this needs the server: pip install "headwater[server]"')


@click.group(cls=_MakeByDefault)
def backup() -> None:
    """Make, list and remove backups. `headwater backup NAME` makes one."""


@backup.command()
@connection_options
@click.argument("name")
@json_option
def make(connector: Connector, name: str, *, as_json: bool) -> None:
    """Make the backup NAME in the server's directory for backups (--backup-dir).

    The server keeps running. The backup contains every commit that was acknowledged before. It is a
    data directory: `headwater check` verifies it, and `headwater restore` copies it to a new
    place. On another disk than the data, files that the last backup has already are linked from
    there, so only new ones are written.
    """
    with connector.connect(answer_timeout=ANSWER_S_MAX) as db:
        made = db.backup(name)
    if as_json:
        row = {"name": name, "commit": made.commit, "position": made.position, "size": made.size}
        click.echo(json_line(row))
        return
    click.echo(f"{name}: commit {made.commit}, position {made.position}, {made.size:,} bytes")


@backup.command("list")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@json_option
def list_(directory: str, *, as_json: bool) -> None:
    """List the backups in the directory DIR, the newest first.

    "copied" is how many bytes were written for a backup; the rest it shares with earlier ones, or
    with the database.
    """
    show(_COLUMNS, _offline().listed(directory), as_json=as_json)


@backup.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--keep-last", type=click.IntRange(min=0), default=0, metavar="N", help="The newest N."
)
@click.option(
    "--keep-daily",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="The newest of each of the last N days with backups (UTC).",
)
@click.option(
    "--keep-weekly",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="The newest of each of the last N weeks with backups.",
)
@click.option(
    "--archive",
    type=click.Path(exists=True, file_okay=False),
    help="Keep the backups that this archive needs.",
)
@click.option(
    "--cut-archive",
    is_flag=True,
    help="Also remove what the archive has from before the oldest kept backup.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@yes_option
def prune(
    directory: str,
    *,
    keep_last: int,
    keep_daily: int,
    keep_weekly: int,
    archive: str | None,
    cut_archive: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove the backups in DIR that no rule keeps. It shows them, and asks.

    The newest backup always stays. So do those that the archive needs, those that cannot be read,
    and those on which a server runs.
    """
    if cut_archive and archive is None:
        raise click.UsageError("--cut-archive needs --archive")
    pruning = _offline().plan(
        directory, keep_last, keep_daily, keep_weekly, archive=archive, cut_archive=cut_archive
    )
    for line in pruning.told():
        click.echo(line)
    if dry_run or not pruning.removes:
        return
    ask("Remove them?", yes=yes)
    pruning.perform()


@click.command()
@connection_options
def promote(connector: Connector) -> None:
    """Make the follower at the URL the leader.

    First make sure that the old leader is down, or that nobody writes to it: what it answered and
    this follower never got is lost, unless the old leader ran with --sync-followers. It is deposed
    when it comes back.
    """
    with connector.connect() as db:
        node = db.promote()
    click.echo(f"{db.address}: leads from commit {node.commit} on")
