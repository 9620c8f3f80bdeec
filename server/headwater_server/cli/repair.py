"""`headwater repair`: make a damaged data directory usable again, keeping copies of lost parts."""

import sys
from functools import partial

import click

from headwater_protocol.exit_codes import FAILED, WARNED
from headwater_server.cli.check import progress, show, wall_clock
from headwater_server.cli.failures import one_line
from headwater_server.engine.check.findings import Report
from headwater_server.engine.repair.actions import Plan
from headwater_server.engine.repair.repair import perform, plan
from headwater_server.storage.files.private_files import private_files
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_repair import repair_rocks
from headwater_server.storage.store.rocks_store import RocksStore


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
def repair(directory: str, *, yes: bool, dry_run: bool) -> None:
    """Make the damaged data directory DIR usable again.

    It first shows what it would do and what that discards, and asks. It keeps copies of everything
    that it replaces or cuts off. It is still safer to repair a copy.
    No server may be running on DIR.

    Commits that a wrong clock dated in the future get the present time. If this machine's clock is
    wrong, set it first.

    Exit status 0: it is sound now. 1: it is not. 3: it is, but commits are dated in the future.
    """
    open_to_check = partial(RocksStore.open, read_only=True)
    with one_line(), progress("checking") as on_progress:
        planned = plan(
            RealFileSystem(),
            directory,
            open_store=open_to_check,
            now=wall_clock(),
            on_progress=on_progress,
        )
    show(planned.report)
    if not _status(planned.report):
        return
    _show_plan(planned)
    if dry_run or not planned.actions:
        sys.exit(_status(planned.report))
    if not yes:
        click.confirm("Do it?", abort=True)
    with one_line(), private_files(), progress("repairing") as on_progress:
        outcome = perform(
            RealFileSystem(),
            directory,
            open_store=RocksStore.open,
            open_store_to_check=open_to_check,
            repair_store=repair_rocks,
            now=wall_clock(),
            on_progress=on_progress,
        )
    for done in outcome.done:
        click.echo(f"done: {done}")
    for copy in outcome.copies:
        click.echo(f"kept: {copy}")
    show(outcome.report)
    sys.exit(_status(outcome.report))


def _status(report: Report) -> int:
    """The exit status for the result of a check."""
    if not report.is_clean:
        return FAILED
    return WARNED if report.warnings else 0


def _show_plan(planned: Plan) -> None:
    for hopeless in planned.hopeless:
        click.echo(f"cannot be repaired: {hopeless}")
    for number, action in enumerate(planned.actions, start=1):
        click.echo(f"{number}. {action}")
