"""`headwater restore`: make a data directory from a backup, an archive, or both."""

import random
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import click

from headwater_protocol.exit_codes import FAILED
from headwater_server.cli.check import progress, show, wall_clock
from headwater_server.cli.failures import one_line
from headwater_server.engine.check.check import check as check_directory
from headwater_server.engine.format.transaction_ids import told_time
from headwater_server.engine.restore import check_target
from headwater_server.engine.restore import restore as restore_directory
from headwater_server.engine.restore_moment import Moment, Opening, restore_moment
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.files.private_files import private_files
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog
from headwater_server.storage.wal.offline import begin_files

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OPEN_TO_READ: Final = partial(RocksStore.open, read_only=True)


def parse_time(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """A time in ISO 8601 as microseconds since 1970; without an offset it is UTC."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}; write it as 2026-12-01T14:30:00+01:00, or without an offset in UTC"
        ) from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // timedelta(microseconds=1)


@click.command()
@click.argument("backup", type=click.Path(exists=True, file_okay=False), required=False)
@click.option("--data", required=True, metavar="DIR", help="New or empty directory.")
@click.option(
    "--archive",
    type=click.Path(exists=True, file_okay=False),
    help="Go on behind the backup with the log of this archive.",
)
@click.option(
    "--to-commit", type=click.IntRange(min=0), metavar="N", help="Stop behind this commit."
)
@click.option(
    "--to-time",
    metavar="TIME",
    callback=parse_time,
    help="Stop behind the newest commit at this time, as in 2026-12-01T14:30:00Z.",
)
@click.option(
    "--timeline",
    type=click.IntRange(min=1),
    metavar="N",
    help="The timeline of the archive; by default the newest.",
)
@click.option("--no-check", is_flag=True, help="Restore without verifying the files.")
def restore(
    backup: str | None,
    *,
    data: str,
    archive: str | None,
    to_commit: int | None,
    to_time: int | None,
    timeline: int | None,
    no_check: bool,
) -> None:
    """Make the new data directory DIR from BACKUP, the directory of a backup.

    With --archive, the log of the archive is replayed behind the backup: up to --to-commit or
    --to-time, or to its end. An archive that begins with the first commit needs no backup.

    The backup is verified first, as `headwater check` does, and pieces of the archive before they
    are used. Neither changes. Then start a server with --data DIR.

    Exit status 0: it is restored. 1: it is not, and DIR is unchanged.
    """
    if archive is None and backup is None:
        raise click.UsageError("give a BACKUP, or --archive, or both")
    if archive is None and (to_commit, to_time, timeline) != (None, None, None):
        raise click.UsageError("--to-commit, --to-time and --timeline need --archive")
    if to_commit is not None and to_time is not None:
        raise click.UsageError("either --to-commit or --to-time")
    files = RealFileSystem()
    with one_line(), private_files():
        # Check the target first: verifying the backup may take long.
        check_target(files, data)
        if backup is not None and not no_check:
            _verify(files, backup, "Nothing was restored. --no-check takes the backup as it is.")
        if archive is None:
            assert backup is not None
            with progress("copying") as on_progress:
                applied = restore_directory(
                    files, backup, data, open_store=_OPEN_TO_READ, on_progress=on_progress
                )
            click.echo(f"{data}: commit {applied.commit}, position {applied.position}")
            return
        with progress("replaying") as on_progress:
            restored = restore_moment(
                files,
                data,
                archive=archive,
                backup=backup,
                moment=Moment(to_commit, to_time, timeline),
                opening=Opening(
                    open_store=RocksStore.open,
                    open_store_to_read=_OPEN_TO_READ,
                    open_log=open_log,
                    begin_log=begin_files,
                    settings=EngineSettings(),
                    clock=wall_clock,
                    source=random.Random(),
                ),
                on_progress=on_progress,
            )
        if not no_check:
            _verify(files, data, f"{data} was restored, but it is not sound.")
    when = f", of {told_time(restored.time)}" if restored.time else ""
    click.echo(
        f"{data}: commit {restored.commit}, position {restored.position}{when}, from timeline "
        f"{restored.timeline}"
    )


def open_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
) -> WriteAheadLog:
    """Open the log of the database that is being restored."""
    return FileWriteAheadLog.open(
        file_system, path, database_id=database_id, random=random, known_durable=known_durable
    )


def _verify(files: RealFileSystem, directory: str, otherwise: str) -> None:
    """Check a data directory; if it is damaged, say so and exit."""
    with progress("checking") as on_progress:
        report = check_directory(
            files, directory, open_store=_OPEN_TO_READ, on_progress=on_progress
        )
    show(report)
    if not report.is_clean:
        click.echo(otherwise, err=True)
        sys.exit(FAILED)
