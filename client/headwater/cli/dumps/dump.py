"""`headwater dump`: writes a database at one commit as JSON lines.

    {"headwater": 3, "commit": 1234, "time": "…", "events": 500, "first_time": "…"}
    {"key": ["balance", "ann"], "value": 90}
    {"key": ["session", "x"], "value": "ann", "expires_at": "…"}
    {"retention": "clicks", "first": 7, "begins": 1, "max_count": 100, "max_age": null, …}
    {"stream": "account-ann", "version": 1, "type": "Opened", "id": "…", "time": "…", "data": …, …}
    {"group": "mailer", "position": 1, "filter": {…}, "settings": {…}, "parked": [[1, "no route"]]}
    {"snapshot": "account-ann", "name": "", "schema": 1, "version": 1, "state": …}
    {"role": "auditor", "grants": ["read:streams"]}
    {"user": "ann", "salt": "base64", "iterations": 15000, "stored_key": "…", "server_key": "…", …}
    {"end": {"keys": 1, "events": 500, "snapshots": 1, "groups": 1, "users": 1}}

The first line is the header; the last line shows that the dump is complete. Types that JSON lacks
are tagged (headwater.cli.dumps.tagged_json), and so are keys that are not tuples. An event whose
data was erased has `"erased": true` instead of data. Events are numbered from 1 by their lines. An
event after hidden ones has its `position`, and a `retention` line has the position of the first
visible event. A stream `begins` where it was last deleted, or at 1; if `first` is above that, it
was truncated. A group is behind the events up to its position, and `first_time` is the time of the
first event. A user whose `rights` are missing may do everything. Old values of keys, hidden events,
and which events a group has done beyond its position are not dumped. Groups and users are those of
the present, the rest is of one commit.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headwater.blocking.database import BlockingDatabase
from headwater.blocking.past import BlockingPast
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.expiries import Expiries
from headwater.cli.dumps.groups import Groups
from headwater.cli.dumps.held_commit import held_commit
from headwater.cli.dumps.tagged_json import key_to_json, value_to_json
from headwater.cli.dumps.users import account_lines
from headwater.codecs.codec import RawCodec
from headwater.records import RecordedEvent
from headwater.transport.stepping import step
from headwater_protocol.keys import key_after
from headwater_protocol.limits import PAGE_ITEMS_MAX

FORMAT: Final = 3
"""Version of the format. Version 1 had neither groups and users nor `first_time`, and version 2 no
`expires_at`."""

Write = Callable[[dict[str, Any]], None]


@click.command()
@connection_options
@click.option(
    "-o",
    "--output",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="The file to write; - is standard output.",
)
@click.option("--commit", type=click.IntRange(min=0), help="Dump this commit.  [default: newest]")
@click.option("--without-users", is_flag=True, help="Leave out users, verifiers and roles.")
@click.option("--without-groups", is_flag=True, help="Leave out consumer groups.")
def dump(
    connector: Connector,
    output: str,
    commit: int | None,
    *,
    without_users: bool,
    without_groups: bool,
) -> None:
    """Write keys, events, retention, snapshots, consumer groups and users as JSON lines.

    All is of one commit, however long it takes; only groups and users are those of the present. Not
    in a dump: earlier values of keys, hidden events, and which events a group has done beyond its
    position. A backup has all of it.

    Users have verifiers of their passwords in it, against which passwords can be guessed. So only
    its owner can read the file.

    A user without the right admin can dump what it may read, --without-users and, unless it may use
    all of them, --without-groups.
    """
    # The commit is held at the leader, so that is where it can be read for as long as this takes.
    with connector.connect(codec=RawCodec(), at_leader=True) as db, _writer(output) as write:
        commit = db.ping().commit if commit is None else commit
        with held_commit(connector.connect(at_leader=True), commit):
            counts = write_dump(
                db,
                write,
                commit,
                with_users=not without_users,
                with_groups=not without_groups,
            )
    click.echo(told(counts), err=True)


def told(counts: dict[str, int]) -> str:
    """The numbers of lines, for the last line of a dump or a load."""
    kinds = [
        "keys",
        "events",
        "snapshots",
        *(kind for kind in ("groups", "roles", "users") if kind in counts),
    ]
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds)


def write_dump(
    db: BlockingDatabase, write: Write, commit: int, *, with_users: bool, with_groups: bool
) -> dict[str, int]:
    """Write the lines of a dump. Returns the number of lines of each kind."""
    # First of all, so that a missing right is told before hours of work.
    accounts = list(account_lines(db)) if with_users else []
    past = db.at(commit=commit)
    total = _last_position(past)
    oldest = next(past.read_all(limit=1), None)
    header = {
        "headwater": FORMAT,
        "commit": commit,
        "time": db.ping().time.isoformat(),
        "events": total,
    }
    if oldest is not None:
        header["first_time"] = oldest.time.isoformat()
    write(header)
    counts = {"keys": 0, "events": 0, "snapshots": 0}
    groups = Groups(db, total, wanted=with_groups)
    with progress_bars() as progress:
        bar = progress.add_task("keys", total=None)
        expiries = Expiries(past)
        for key, value in stored_keys(past):
            line: dict[str, Any] = {"key": key_to_json(key), "value": value_to_json(value)}
            if (expires_at := expiries.of(key)) is not None:
                line["expires_at"] = expires_at.isoformat()
            write(line)
            counts["keys"] += 1
            progress.advance(bar)
        progress.update(bar, total=counts["keys"])
        for kept in _kept(past):
            write(kept)
            counts["retention"] = counts.get("retention", 0) + 1
        bar = progress.add_task("events", total=total)
        position = 0
        for event in past.read_all():
            for group in groups.before(event.position):
                write(group)
            position += 1
            line = _event_line(event)
            if event.position != position:
                line["position"] = position = event.position
            write(line)
            counts["events"] += 1
            progress.advance(bar)
        for group in groups.before(None):
            write(group)
        if groups.count:
            counts["groups"] = groups.count
        bar = progress.add_task("snapshots", total=None)
        for snapshot in past.snapshots():
            write(
                {
                    "snapshot": snapshot.stream,
                    "name": snapshot.name,
                    "schema": snapshot.schema,
                    "version": snapshot.version,
                    "state": value_to_json(snapshot.state),
                }
            )
            counts["snapshots"] += 1
            progress.advance(bar)
        progress.update(bar, total=counts["snapshots"])
    for account in accounts:
        write(account)
        kind = "roles" if "role" in account else "users"
        counts[kind] = counts.get(kind, 0) + 1
    write({"end": counts})
    return counts


def _event_line(event: RecordedEvent) -> dict[str, Any]:
    line: dict[str, Any] = {
        "stream": event.stream,
        "version": event.version,
        "type": event.type,
        "id": str(event.id),
        "time": event.time.isoformat(),
    }
    if event.erased:
        line["erased"] = True
    else:
        line["data"] = value_to_json(event.data)
    if event.metadata is not None:
        line["metadata"] = value_to_json(event.metadata)
    if event.stored_tags:
        line["tags"] = event.stored_tags
    return line


def stored_keys(
    past: BlockingPast, first: bytes = b"", last: bytes | None = None, limit: int | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """Keys of a range, as stored bytes: keys of clients in other languages may not be tuples."""
    more = True
    while more and limit != 0:
        size = PAGE_ITEMS_MAX if limit is None else min(limit, PAGE_ITEMS_MAX)
        page = past._core._fetch("scan", first, last, size, False)  # noqa: SLF001
        _, items, more = step(page)
        yield from zip(items[::2], items[1::2], strict=True)
        first = key_after(items[-2]) if items else first
        limit = None if limit is None else limit - len(items) // 2


def _kept(past: BlockingPast) -> Iterator[dict[str, Any]]:
    """A line for each stream that lacks its first events, or has retention."""
    for stream in past.streams():
        if (stream.first, stream.max_count, stream.max_age) == (1, None, None):
            continue
        oldest = next(past.read(stream.stream, limit=1), None)
        yield {
            "retention": stream.stream,
            "first": stream.first,
            "begins": stream.begins,
            "max_count": stream.max_count,
            "max_age": None if stream.max_age is None else stream.max_age.total_seconds(),
            "position": None if oldest is None else oldest.position,
        }


def _last_position(past: BlockingPast) -> int:
    """The position of the last event, even if it is hidden."""
    last = next(past.read_all(reverse=True, limit=1), None)
    seen = 0 if last is None else last.position
    # A page without events has searched to the end of the log.
    position: int = step(past._core._fetch("read_all", seen, {}, 1, False))[1]  # noqa: SLF001
    return max(seen, position)


@contextmanager
def _writer(output: str) -> Iterator[Write]:
    """Write lines to stdout, or to a file that gets its name only when it is complete."""
    if output == "-":
        yield lambda line: click.echo(json.dumps(line, ensure_ascii=False))
        return
    partial = Path(output + ".partial")
    try:
        # Only its owner may read it: it has all data, and verifiers of passwords.
        with open(partial, "w", encoding="utf-8", opener=_private) as file:
            yield lambda line: print(json.dumps(line, ensure_ascii=False), file=file)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def progress_bars() -> Progress:
    """Progress bars on standard error, if it is a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
