"""message-db on PostgreSQL: the table `messages`.

| message-db | here |
|---|---|
| stream name | stream; the category ends at the first "-" on both sides |
| position, from 0 | version, from 1 |
| global position | the old position |
| id, type, data, metadata, time | the same |

All is read in one snapshot of PostgreSQL, so writers may go on; a later import continues with what
came since. A message whose transaction was open while a later global position was committed would
be missed by it, so the last import needs quiet writers, and `verify` tells.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.imports.source import SourceEvent, utc

PAGE: Final = 2000
"""Messages that are fetched at once."""

_COLUMNS: Final = "global_position, stream_name, position, id, type, data, metadata, time"


class MessageDb:
    """Messages of message-db. Use it as a context manager. Needs psycopg.

    Args:
        conninfo: a connection string of PostgreSQL, such as "postgresql://user@host/message_store".
        schema: where the table is.
        category: only messages of this category.
    """

    codec: Codec | None = None

    def __init__(
        self, conninfo: str, *, schema: str = "message_store", category: str | None = None
    ) -> None:
        self._conninfo = conninfo
        self._schema = schema
        self._category = category
        self._connection: Any = None

    def __enter__(self) -> Self:
        self._connection = postgresql(self._conninfo)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def _from(self) -> tuple[Any, list[Any]]:
        from psycopg import sql

        table = sql.Identifier(self._schema, "messages")
        if self._category is None:
            return sql.SQL("FROM {} WHERE global_position > %s").format(table), []
        clause = "FROM {} WHERE split_part(stream_name, '-', 1) = %s AND global_position > %s"
        return sql.SQL(clause).format(table), [self._category]

    def count(self) -> int:
        from psycopg import sql

        clause, values = self._from()
        row = self._connection.execute(sql.SQL("SELECT count(*) ") + clause, [*values, 0])
        return int(row.fetchone()[0])

    def events(self, after: int = 0) -> Iterator[SourceEvent]:
        from psycopg import sql

        clause, values = self._from()
        select = sql.SQL(f"SELECT {_COLUMNS} ") + clause
        statement = select + sql.SQL(" ORDER BY global_position LIMIT %s")
        while rows := self._connection.execute(statement, [*values, after, PAGE]).fetchall():
            for row in rows:
                yield _event(*row)
            after = rows[-1][0]


def _event(
    global_position: int,
    stream: str,
    position: int,
    id: Any,  # noqa: A002 - the name of the column
    kind: str,
    data: Any,
    metadata: Any,
    time: Any,
) -> SourceEvent:
    return SourceEvent(
        position=global_position,
        stream=stream,
        type=kind,
        data=data,
        id=id,
        metadata=metadata,
        # The column has no zone, and the time is UTC.
        time=utc(time),
        version=position + 1,
    )


def postgresql(conninfo: str) -> Any:
    """A connection to PostgreSQL that reads one snapshot.

    Raises:
        InvalidArgument: psycopg is not installed, or the connection cannot be made.
    """
    try:
        import psycopg
    except ModuleNotFoundError:
        raise InvalidArgument(
            'importing from PostgreSQL needs psycopg: pip install "headwater[postgresql]"'
        ) from None
    try:
        connection = psycopg.connect(conninfo)
    except psycopg.Error as error:
        raise InvalidArgument(f"cannot connect to PostgreSQL: {error}") from error
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection
