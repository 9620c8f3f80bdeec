"""`headwater import eventsourcing`: an application's tables in SQLite or PostgreSQL.

| the library's table | here |
|---|---|
| stored events, in the order of their notification ids | the events that this module stores |
| snapshots | snapshots |
| tracking of an upstream application | the same, at the new position, if that was imported before |

The tables have no column for the time. It is taken from the state where that is JSON with a
`timestamp`, as the library's own transcoder writes it. An event without one has the time of the one
before it.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import NAMESPACE_OID, UUID, uuid5

import click
import msgpack

import headwater
from eventsourcing_headwater.names import category_of, metadata_of, stream_of, type_of
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.imports import run_import
from headwater.imports import SourceEvent, position_of
from headwater.imports.importing import Times
from headwater.imports.message_db import postgresql
from headwater.imports.positions import progress_of
from headwater.imports.source import utc

PAGE: Final = 2000
"""Rows that are fetched at once."""


class StoredEvents(AbstractContextManager["StoredEvents"]):
    """The tables of an application. Use it as a context manager.

    Args:
        place: the path of a SQLite file, or a connection string that begins with postgresql://.
        application: the name of the application, as here.
        context: HEADWATER_CONTEXT of the application here.
        schema: of PostgreSQL.
        events, snapshots, tracking: names of tables, if they are not the library's own.
        text_ids: whether the ids of originators are text and not UUIDs; SQLite does not say.
    """

    codec: headwater.Codec | None = headwater.RawCodec()

    def __init__(
        self,
        place: str,
        application: str,
        *,
        context: str = "",
        schema: str = "public",
        events: str | None = None,
        snapshots: str | None = None,
        tracking: str | None = None,
        text_ids: bool = False,
    ) -> None:
        self._place = place
        self._is_postgresql = place.startswith(("postgresql://", "postgres://"))
        prefix = application.lower()
        ours = self._is_postgresql
        self._events = events or (f"{prefix}_events" if ours else "stored_events")
        self._snapshots = snapshots or (f"{prefix}_snapshots" if ours else "stored_snapshots")
        self._tracking = tracking or (f"{prefix}_tracking" if ours else "tracking")
        self._schema = schema
        self._text_ids = text_ids
        self._connection: Any = None
        self.application = application
        self.category = category_of(application, context)
        self._context = context
        self._begins_at_zero = lru_cache(maxsize=100_000)(self._ask_begins_at_zero)

    @property
    def name(self) -> str:
        """The name of the import: that of the application and its context."""
        return f"eventsourcing {self.category}"

    def __enter__(self) -> Self:
        if self._is_postgresql:
            self._connection = postgresql(self._place)
        else:
            if not Path(self._place).is_file():
                raise headwater.InvalidArgument(f"import: there is no file {self._place}")
            uri = f"{Path(self._place).resolve().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True)
        if not self._has(self._events):
            raise headwater.InvalidArgument(f"import: there is no table {self._events!r}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def count(self) -> int:
        (row,) = self._ask(f"SELECT count(*) FROM {self._table(self._events)}")  # noqa: S608
        return int(row[0])

    def events(self, after: int = 0) -> Iterator[SourceEvent]:
        """The events behind a notification id, in order."""
        number = "notification_id" if self._is_postgresql else "rowid"
        statement = (
            f"SELECT {number}, originator_id, originator_version, topic, state "  # noqa: S608
            f"FROM {self._table(self._events)} WHERE {number} > ? ORDER BY {number} LIMIT {PAGE}"
        )
        while rows := self._ask(statement, after):
            for row in rows:
                yield self._event(*row)
            after = rows[-1][0]

    def _event(self, number: int, given: Any, version: int, topic: str, state: Any) -> SourceEvent:
        originator = self._originator(given)
        stream = stream_of(self.category, originator)
        offset = -1 if self._begins_at_zero(given) else 0
        kind = type_of(topic)
        data = bytes(state)
        return SourceEvent(
            position=number,
            stream=stream,
            type=kind,
            data=data,
            id=uuid5(NAMESPACE_OID, f"{stream} {version}"),
            metadata=metadata_of(topic, kind, offset),
            time=time_of(data),
            version=version - offset,
        )

    def _originator(self, given: Any) -> UUID | str:
        if isinstance(given, UUID):
            return given
        return str(given) if self._is_postgresql or self._text_ids else UUID(given)

    def _ask_begins_at_zero(self, given: Any) -> bool:
        table = self._table(self._events)
        return bool(
            self._ask(
                f"SELECT 1 FROM {table} "  # noqa: S608
                "WHERE originator_id = ? AND originator_version = 0",
                given,
            )
        )

    def copy_others(self, db: headwater.BlockingDatabase) -> tuple[int, list[str]]:
        """Copy snapshots and tracking, when the events are there. It may be repeated.

        Returns:
            The number of snapshots, and the upstream applications that were not imported yet.
        """
        snapshots = 0
        if self._has(self._snapshots):
            rows = self._ask(
                "SELECT originator_id, originator_version, topic, state "  # noqa: S608
                f"FROM {self._table(self._snapshots)}"
            )
            for given, version, topic, state in rows:
                key = ("es", self.category, "snapshots", self._originator(given), version)
                self._put(db, key, [topic, bytes(state)])
                snapshots += 1
        missing = []
        if self._has(self._tracking):
            rows = self._ask(
                "SELECT application_name, max(notification_id) "  # noqa: S608
                f"FROM {self._table(self._tracking)} GROUP BY application_name"
            )
            for upstream, old in rows:
                name = f"eventsourcing {category_of(upstream, self._context)}"
                if progress_of(db, name) is None:
                    missing.append(upstream)
                    continue
                new = position_of(db, name, old)
                if new is not None:
                    self._put(db, ("es", self.category, "tracking", upstream), new)
        return snapshots, missing

    def _put(self, db: headwater.BlockingDatabase, key: tuple[Any, ...], value: object) -> None:
        assert self.codec is not None
        batch = headwater.Batch(self.codec)
        batch.put(key, msgpack.packb(value))
        db.execute(batch)

    def _table(self, name: str) -> str:
        quoted = [part.replace('"', '""') for part in (self._schema, name)]
        return '"{}"."{}"'.format(*quoted) if self._is_postgresql else f'"{quoted[1]}"'

    def _has(self, table: str) -> bool:
        if self._is_postgresql:
            found = self._ask(
                "SELECT 1 FROM pg_tables WHERE schemaname = ? AND tablename = ?",
                self._schema,
                table,
            )
        else:
            found = self._ask("SELECT 1 FROM sqlite_master WHERE name = ?", table)
        return bool(found)

    def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._is_postgresql:
            statement = statement.replace("?", "%s")
        rows: list[tuple[Any, ...]] = self._connection.execute(statement, values).fetchall()
        return rows


def time_of(state: bytes) -> datetime | None:
    """The `timestamp` in a state that is JSON, or None."""
    if not state.startswith(b"{"):
        return None
    try:
        found = json.loads(state).get("timestamp")
        text = found.get("_data_") if isinstance(found, dict) else found
        return utc(datetime.fromisoformat(text)) if isinstance(text, str) else None
    except (ValueError, AttributeError):
        return None


def _copying(source: StoredEvents) -> Callable[[headwater.BlockingDatabase], None]:
    def copy(db: headwater.BlockingDatabase) -> None:
        snapshots, missing = source.copy_others(db)
        click.echo(f"{snapshots:,} snapshots", err=True)
        for upstream in missing:
            click.echo(
                f"warning: what was processed of {upstream} is not copied: import {upstream}, "
                "then this application again",
                err=True,
            )

    return copy


@click.command("eventsourcing")
@connection_options
@click.argument("place")
@click.option("--application", required=True, help="The name of the application.")
@click.option("--context", default="", help="Its HEADWATER_CONTEXT here.")
@click.option("--schema", default="public", help="Of PostgreSQL.")
@click.option("--events", help="The table of events, if it is not the library's.")
@click.option("--snapshots", help="The table of snapshots, if it is not the library's.")
@click.option("--tracking", help="The table of tracking, if it is not the library's.")
@click.option("--text-ids", is_flag=True, help="In SQLite: ids of originators are text.")
@click.option(
    "--times",
    type=click.Choice(["keep", "now"]),
    default="keep",
    help="Keep the times of the events, which needs a database without newer commits; or give "
    "them the time of now.",
)
@click.option("--verify/--no-verify", "verified", default=True, help="Compare all at the end.")
def command(
    connector: Connector, *, place: str, times: Times, verified: bool, **options: Any
) -> None:
    """Import an application of the library `eventsourcing`.

    PLACE is a SQLite file, or a connection string such as postgresql://user@host/bank. Upstream
    applications come first, so that what was processed of them is found at its new position. Let
    the application stand still for the last import.
    """
    with StoredEvents(place, **options) as source:
        run_import(
            connector,
            source,
            name=source.name,
            times=times,
            verified=verified,
            after=_copying(source),
        )
