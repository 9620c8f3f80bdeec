"""`headwater load`: reads a dump back into a database.

Up to a thousand lines at a time are written together, in the order of the file, over one
connection. So events keep their order, and in an empty database they get the positions that they
had, even where events were hidden (headwater.cli.dumps.removed), and the times that they had
(headwater.cli.dumps.held_times): events of one time are one transaction. Commit numbers are new.

What is there already is left alone. So an interrupted load can be repeated: events keep their ids,
and an append of existing ids counts as done. If the lines were divided differently, a part of a
transaction may exist; then existing events are compared and skipped. If a stream has other events,
nothing of that transaction is written, and the load stops.
"""

from collections import Counter
from itertools import groupby
from typing import IO, Any, Final

import click
from rich.progress import Progress

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.dump import FORMAT, progress_bars, told
from headwater.cli.dumps.groups import restore_group
from headwater.cli.dumps.held_times import HeldTimes
from headwater.cli.dumps.lines import (
    Line,
    batch_of,
    event_of,
    is_same,
    kind_of,
    parse,
    parts_of,
    save_snapshots,
    time_of,
)
from headwater.cli.dumps.removed import Removed, newest_position
from headwater.cli.dumps.tagged_json import key_from_json, value_from_json
from headwater.cli.dumps.users import restore_accounts
from headwater.codecs.codec import RawCodec
from headwater.errors import ConditionFailed, DuplicateEvent, HeadwaterError, WrongVersion
from headwater.identifiers import new_transaction_id
from headwater.records import RecordedEvent
from headwater.transactions.batch import Batch
from headwater.transport.stepping import step

FORMATS: Final = range(1, FORMAT + 1)
"""Formats that can be read."""

ROUNDS_MAX: Final = 5
"""How often a transaction is tried without what turned out to be there already. Each round leaves
something out, and only writes of others at the same time can make more than two necessary."""


@click.command()
@connection_options
@click.option(
    "--overwrite", is_flag=True, help="Set keys and snapshots to those of the dump if they exist."
)
@click.argument("file", type=click.File("rb"))
def load(connector: Connector, file: IO[bytes], *, overwrite: bool) -> None:
    """Read a dump back into a database.

    FILE is the output of `headwater dump`; - is standard input. Keys, events, snapshots, retention,
    groups and users that exist already are left alone. So it can be run again after an
    interruption. --overwrite sets existing keys and snapshots back to those of the dump.

    In an empty database, events keep their positions and times, if the load is not interrupted. All
    commits of other clients get these times too, so let them wait until the load has ended.
    """
    with connector.connect(codec=RawCodec()) as db, progress_bars() as progress:
        counts, left_alone = read_dump(db, file, progress, overwrite=overwrite)
    click.echo(told(counts), err=True)
    if left_alone:
        click.echo(
            f"{left_alone:,} keys have another value already and were left alone; --overwrite sets "
            "them to those of the dump",
            err=True,
        )


def read_dump(
    db: BlockingDatabase, file: IO[bytes], progress: Progress, *, overwrite: bool
) -> tuple[dict[str, int], int]:
    """Load the lines of a dump.

    Returns:
        The number of lines of each kind, and the number of keys that were left alone although they
        have another value.
    """
    lines = enumerate(file, 1)
    header = parse(*next(lines, (1, b"")))
    if header.get("headwater") not in FORMATS:
        raise click.ClickException(
            f"not a dump of format {FORMAT} or older; its first line is {header!s:.80}"
        )
    name = getattr(file, "name", "-")
    counts = Counter({"keys": 0, "events": 0, "snapshots": 0})
    bars = {
        "keys": progress.add_task("keys", total=None),
        "events": progress.add_task("events", total=header.get("events")),
        "snapshots": progress.add_task("snapshots", total=None),
    }
    end: dict[str, Any] | None = None
    loader = Loader(db, header.get("first_time"), overwrite=overwrite)
    for part in parts_of(lines):
        if "end" in part[-1][1]:
            end = part.pop()[1]["end"]
        if part:
            loader.load(part)
        for kind, members in groupby(part, lambda line: kind_of(line[1])):
            count = len(list(members))
            counts[kind] += count
            if kind in bars:
                progress.advance(bars[kind], count)
    if end is None:
        raise click.ClickException(f"{name} ends early: the dump is incomplete")
    if end != counts:
        raise click.ClickException(f"{name}: its last line says {end}, but it has {dict(counts)}")
    loader.finish(header.get("events", 0))
    return counts, loader.left_alone


class Loader:
    """Writes the parts of a dump, in their order.

    Attributes:
        left_alone: keys that have another value than in the dump, and keep it.
    """

    def __init__(self, db: BlockingDatabase, first_time: str | None, *, overwrite: bool) -> None:
        self.left_alone = 0
        self._db = db
        self._overwrite = overwrite
        self._began_empty = db.ping().commit == 0
        self._began_at = newest_position(db)
        self._times = HeldTimes(db, first_time)
        self._removed = Removed(db)
        self._accounts: list[Line] = []
        self._snapshots: dict[tuple[str, str, int], int] | None = None

    def load(self, part: list[tuple[int, Line]]) -> None:
        """Write a part, unless it is there already.

        Raises:
            click.ClickException: it cannot be written; the message has the numbers of the lines.
        """
        where = f"lines {part[0][0]} to {part[-1][0]}"
        lines = [line for _, line in part]
        try:
            self._load(lines)
        except HeadwaterError as error:
            raise click.ClickException(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise click.ClickException(f"{where}: not lines of a dump: {error!r}") from error

    def finish(self, last: int) -> None:
        """Fill the gap after the last event, release the clock, and add the users."""
        self._removed.finish(last)
        self._times.release()
        # The last thing: once there is a user, a connection without one is refused.
        restore_accounts(self._db, self._accounts)

    def _load(self, lines: list[Line]) -> None:
        match kind_of(lines[0]):
            case "users" | "roles":
                self._accounts += lines
                return
            case "groups":
                for line in lines:
                    self._removed.fill_to(line["position"])
                    restore_group(self._db, line)
                return
        times = [time for line in lines if (time := time_of(line)) is not None]
        if times:
            self._times.hold(times[0])
        for line in lines:
            if "retention" in line:
                self._removed.expect(line)
            elif "stream" in line:
                self._removed.before(line)
        self._write([line for line in lines if "key" in line or "stream" in line])
        self._erase(lines)
        snapshots = [line for line in lines if kind_of(line) == "snapshots"]
        if not self._overwrite:
            snapshots = [line for line in snapshots if not self._has_snapshot(line)]
        save_snapshots(self._db, snapshots)

    def _write(self, lines: list[Line]) -> None:
        if not self._times.are_kept:
            self._write_run(lines, None)
            return
        # The events of one time, with the lines around them that have none.
        runs: list[tuple[int | None, list[Line]]] = []
        for line in lines:
            time = time_of(line)
            if not runs or (time is not None and runs[-1][0] not in (None, time)):
                runs.append((time, []))
            runs[-1][1].append(line)
            if runs[-1][0] is None:
                runs[-1] = (time, runs[-1][1])
        if len(runs) > 1 and self._write_together(runs):
            return
        for time, run in runs:
            self._write_run(run, time)

    def _write_together(self, runs: list[tuple[int | None, list[Line]]]) -> bool:
        """Send all runs at once, so that they share a sync; whether that was possible.

        If not, some may have been written. Written again, they count as done.
        """
        requests: list[tuple[Any, ...]] = []
        for time, run in runs:
            batch = self._batch(run)
            if time is not None:
                requests.append(("hold_clock", time))
            requests.append(("execute", new_transaction_id(), *batch.request()))
        try:
            connection = step(self._db._core._channel.connection())  # noqa: SLF001
            answers = step(connection.exchange(requests))
        except HeadwaterError:
            return False
        committed = [answer[0] for answer in answers if answer is not None]
        for (time, _), (_, written_at, first, last, *_) in zip(runs, committed, strict=True):
            if time is not None and written_at != time:
                self._note_new_times(first, last)
        return True

    def _batch(self, lines: list[Line]) -> Batch:
        return batch_of(self._db, lines, self._removed.begins, overwrite=self._overwrite)

    def _write_run(self, lines: list[Line], time: int | None) -> None:
        """Write lines as one transaction, without what is there already."""
        if time is not None:
            self._times.hold(time)
        for round_ in range(ROUNDS_MAX):
            if not lines:
                return
            try:
                batch = self._batch(lines)
                committed = self._db.execute(batch).committed
            except ConditionFailed:
                left = self._without_known_keys(lines)
                if round_ == ROUNDS_MAX - 1:
                    raise
            except (DuplicateEvent, WrongVersion):
                left = missing(self._db, lines)
                if len(left) == len(lines):
                    raise
            else:
                if not self._times.are_kept:
                    self._note_new_times(committed.first_position, committed.last_position)
                return
            lines = left

    def _note_new_times(self, first: int | None, last: int | None) -> None:
        # An append of existing events is answered with their old positions.
        if first is not None and last is not None and first > self._began_at:
            self._times.new_times += last - first + 1

    def _without_known_keys(self, lines: list[Line]) -> list[Line]:
        """The lines without those of keys that exist."""
        batch = self._db.batch()
        places: dict[int, int] = {}
        for number, line in enumerate(lines):
            if "key" in line:
                key = key_from_json(line["key"])
                places[number] = batch._read(["get", key], None)  # noqa: SLF001
        values = self._db.execute(batch).results
        left = []
        for number, line in enumerate(lines):
            known = values[places[number]] if number in places else None
            if known is None:
                left.append(line)
            elif known != value_from_json(line["value"]):
                self.left_alone += 1
        return left

    def _has_snapshot(self, line: Line) -> bool:
        """Whether there is a snapshot of this version or a later one."""
        if self._began_empty:
            return False
        if self._snapshots is None:
            self._snapshots = {}
            for each in self._db.snapshots():
                which = (each.stream, each.name, each.schema)
                self._snapshots[which] = max(each.version, self._snapshots.get(which, 0))
        which = (line["snapshot"], line["name"], line["schema"])
        return self._snapshots.get(which, 0) >= int(line["version"])

    def _erase(self, lines: list[Line]) -> None:
        versions: dict[str, list[int]] = {}
        for line in lines:
            if line.get("erased"):
                versions.setdefault(line["stream"], []).append(line["version"])
        for stream, erased in versions.items():
            self._db.erase(stream, versions=erased)


def missing(db: BlockingDatabase, lines: list[Line]) -> list[Line]:
    """All lines except those of events that exist already, at the same version."""
    existing: dict[tuple[str, int], RecordedEvent] = {}
    spans: dict[str, tuple[int, int]] = {}
    for line in lines:
        if "stream" in line:
            first, _ = spans.get(line["stream"], (line["version"], 0))
            spans[line["stream"]] = first, line["version"]
    for stream, (first, last) in spans.items():
        for event in db.read(stream, after=first - 1, limit=last - first + 1):
            existing[stream, event.version] = event
    return [
        line
        for line in lines
        if "stream" not in line
        or not is_same(existing.get((line["stream"], line["version"])), event_of(line))
    ]
