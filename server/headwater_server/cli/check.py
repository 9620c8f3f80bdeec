"""`headwater check`: read every byte of a data directory and say what is wrong, and where."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click

from headwater_protocol.exit_codes import FAILED, WARNED
from headwater_server.cli.failures import one_line
from headwater_server.engine.check.check import check as check_directory
from headwater_server.engine.check.findings import Progress, Report
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
def check(directory: str) -> None:
    """Read every byte of the data directory DIR, and change nothing.

    No server may be running on it. Exit status 0: it is sound. 1: it is damaged, or could not be
    read. 3: it is sound, but commits are dated in the future.
    """
    with one_line(), progress("checking") as on_progress:
        report = check_directory(
            RealFileSystem(),
            directory,
            open_store=partial(RocksStore.open, read_only=True),
            now=wall_clock(),
            on_progress=on_progress,
        )
    show(report)
    if not report.is_clean:
        click.echo(f"To repair it, and to see what a repair discards: headwater repair {directory}")
        sys.exit(FAILED)
    if report.warnings:
        click.echo(
            f"To correct this, and to see what a repair discards: headwater repair {directory}"
        )
        sys.exit(WARNED)


def wall_clock() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def show(report: Report) -> None:
    """Print what a check found."""
    for finding in report.findings:
        click.echo(f"{finding}")
        click.echo(f"    repair: {finding.remedy}")
    if report.more:
        click.echo(f"and {report.more} more")
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
        click.echo(f"    repair: {warning.remedy}")
    for note in report.notes:
        click.echo(f"note: {note}")
    count = len(report.findings) + report.more
    logged = ""
    if report.logged_commits:
        logged = f", and {report.logged_commits} commits more in the write-ahead log"
    click.echo(
        f"{report.commits} commits, {report.events} events, {report.keys} keys{logged}: "
        + ("all is well" if report.is_clean else f"{count} damaged")
    )


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1000, label=what, file=sys.stderr) as bar:
        shown = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal shown
            now = done * 1000 // max(total, 1)
            bar.update(now - shown)
            shown = now

        yield on_progress
