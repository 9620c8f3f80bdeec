"""Events and keys as Arrow tables."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from headwater.errors import InvalidArgument
from headwater.tables.rows import Row

BATCH_ROWS: Final = 10_000
"""Rows of a record batch: some megabytes, and few enough batches that their overhead is small."""


def pyarrow() -> Any:
    """The package pyarrow.

    Raises:
        InvalidArgument: it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            'this needs pyarrow, which is not installed: pip install "headwater[arrow]"'
        ) from error
    return pyarrow


def event_schema() -> Any:
    """The columns of events."""
    pa = pyarrow()
    return pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("stream", pa.string(), nullable=False),
            pa.field("version", pa.int64(), nullable=False),
            pa.field("commit", pa.int64(), nullable=False),
            pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("type", pa.string(), nullable=False),
            pa.field("data", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("tags", pa.list_(pa.string()), nullable=False),
            pa.field("erased", pa.bool_(), nullable=False),
            pa.field("undecodable", pa.bool_(), nullable=False),
        ]
    )


def key_schema() -> Any:
    """The columns of keys."""
    pa = pyarrow()
    return pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.string())])


def record_batch(rows: Iterable[Row], schema: Any) -> Any:
    """Rows as one record batch."""
    return pyarrow().RecordBatch.from_pylist(list(rows), schema=schema)


async def table_of(rows: AsyncIterator[Row], schema: Any) -> Any:
    """All rows as one table."""
    batches: list[Any] = []
    waiting: list[Row] = []
    async for row in rows:
        waiting.append(row)
        if len(waiting) == BATCH_ROWS:
            batches.append(record_batch(waiting, schema))
            waiting = []
    if waiting:
        batches.append(record_batch(waiting, schema))
    return pyarrow().Table.from_batches(batches, schema=schema)
