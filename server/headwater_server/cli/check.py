"""`headwater check`: read every byte of a database, a backup or an archive; say what is wrong."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from headwater_protocol.exit_codes import FAILED, WARNED
from headwater_server.cli.failures import one_line
from headwater_server.engine.check.archive import ArchiveReport, check_archive
from headwater_server.engine.check.check import check as check_directory
from headwater_server.engine.check.findings import Finding, Progress, Report
from headwater_server.engine.format.transaction_ids import told_time
from headwater_server.storage.archive.directory import is_archive
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def check(directory: str, *, as_json: bool) -> None:
    """Read every byte of the data directory, backup or archive DIR, and change nothing.

    No server may be running on a data directory; one may write to an archive. Exit status 0: it is
    sound. 1: it is damaged, or could not be read. 3: it is sound, but commits are dated in the
    future.
    """
    files = RealFileSystem()
    if is_archive(files, directory):
        with one_line(), progress("checking") as on_progress:
            checked = check_archive(files, directory, on_progress=on_progress)
        if as_json:
            click.echo(json.dumps(_archive_figures(checked)))
        else:
            _show_archive(checked)
            if checked.findings:
                click.echo("An archive cannot be repaired. Make a backup, and begin a new archive.")
        if checked.findings:
            sys.exit(FAILED)
        return
    with one_line(), progress("checking") as on_progress:
        report = check_directory(
            files,
            directory,
            open_store=partial(RocksStore.open, read_only=True),
            now=wall_clock(),
            on_progress=on_progress,
        )
    if as_json:
        click.echo(json.dumps(_figures(report)))
    else:
        show(report)
        if not report.is_clean or report.warnings:
            aim = "correct this" if report.is_clean else "repair it"
            click.echo(f"To {aim}, and to see what a repair discards: headwater repair {directory}")
    if not report.is_clean:
        sys.exit(FAILED)
    if report.warnings:
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


def _figures(report: Report) -> dict[str, Any]:
    """What a check found, for programs."""
    return {
        "sound": report.is_clean,
        "commits": report.commits,
        "events": report.events,
        "keys": report.keys,
        "logged_commits": report.logged_commits,
        "logged_events": report.logged_events,
        "damaged": [_finding(each) for each in report.findings],
        "damaged_more": report.more,
        "warnings": [_finding(each) for each in report.warnings],
        "notes": report.notes,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "file": finding.file,
        "offset": finding.offset,
        "what": finding.what,
        "repair": finding.remedy,
    }


def _archive_figures(report: ArchiveReport) -> dict[str, Any]:
    """What a check of an archive found, for programs. Times are microseconds since 1970."""
    return {
        "sound": not report.findings,
        "pieces": report.pieces,
        "size": report.size,
        "timelines": [
            {
                "number": each.number,
                "parent": each.parent,
                "first_commit": each.span.before + 1,
                "last_commit": each.span.last,
                "first_time": each.span.first_time,
                "last_time": each.span.last_time,
            }
            for each in report.timelines
        ],
        "damaged": report.findings,
    }


def _show_archive(report: ArchiveReport) -> None:
    for finding in report.findings:
        click.echo(finding)
    for timeline in report.timelines:
        span = timeline.span
        begins = "from the first entry on"
        if timeline.parent is not None:
            begins = f"continues timeline {timeline.parent} behind commit {span.before}"
        elif timeline.first > 1:
            begins = f"needs a backup of commit {span.before} or a later one"
        click.echo(
            f"timeline {timeline.number}: commits {span.before + 1} to {span.last}, "
            f"{told_time(span.first_time)} to {told_time(span.last_time)}, {begins}"
        )
    count = len(report.findings)
    click.echo(
        f"{report.pieces} pieces, {report.size:,} bytes: "
        + (f"{count} damaged" if count else "all is well")
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
