"""`headwater restore`: make a data directory from a backup."""

import sys
from functools import partial

import click

from headwater_protocol.exit_codes import FAILED
from headwater_server.cli.check import progress, show
from headwater_server.cli.failures import one_line
from headwater_server.engine.check.check import check as check_directory
from headwater_server.engine.restore import check_target
from headwater_server.engine.restore import restore as restore_directory
from headwater_server.storage.files.private_files import private_files
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore


@click.command()
@click.argument("backup", type=click.Path(exists=True, file_okay=False))
@click.option("--data", required=True, metavar="DIR", help="New or empty directory.")
@click.option("--no-check", is_flag=True, help="Copy without verifying the backup first.")
def restore(backup: str, *, data: str, no_check: bool) -> None:
    """Copy BACKUP, the directory of a backup, to the new data directory DIR.

    The backup is verified first, as `headwater check` does. Then start a server with --data DIR.
    The backup does not change.

    Exit status 0: it is restored. 1: it is not, and DIR is unchanged.
    """
    open_store = partial(RocksStore.open, read_only=True)
    files = RealFileSystem()
    with one_line(), private_files():
        # Check the target first: verifying the backup may take long.
        check_target(files, data)
        if not no_check:
            with progress("checking") as on_progress:
                report = check_directory(
                    files, backup, open_store=open_store, on_progress=on_progress
                )
            show(report)
            if not report.is_clean:
                click.echo("Nothing was restored. --no-check copies the backup as it is.", err=True)
                sys.exit(FAILED)
        with progress("copying") as on_progress:
            applied = restore_directory(
                files, backup, data, open_store=open_store, on_progress=on_progress
            )
    click.echo(f"{data}: commit {applied.commit}, position {applied.position}")
