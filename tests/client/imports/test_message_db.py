"""Messages of message-db are imported from PostgreSQL, where that is installed.

The table has the columns and the constraints of message-db 1.3. Its functions are not needed to
read it.
"""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

import headwater
from bench.servers import Postgres, postgres_programs
from headwater.imports import MessageDb, import_events, message_db, position_of, verify

TABLE = """
CREATE SCHEMA message_store;
CREATE TABLE message_store.messages (
    global_position bigserial NOT NULL,
    position bigint NOT NULL,
    time timestamp without time zone DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
    stream_name text NOT NULL,
    type text NOT NULL,
    data jsonb,
    metadata jsonb,
    id uuid NOT NULL DEFAULT gen_random_uuid()
);
ALTER TABLE message_store.messages ADD PRIMARY KEY (global_position);
CREATE UNIQUE INDEX messages_id ON message_store.messages (id);
CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position);
INSERT INTO message_store.messages
       (global_position, position, time, stream_name, type, data, metadata)
SELECT n * 2, (n - 1) / 4, timestamp '2020-01-01' + n * interval '1 second',
       (ARRAY['account-1', 'account-2', 'account:command-1', 'order-1'])[(n - 1) % 4 + 1],
       'Counted', jsonb_build_object('n', n, 'x', 1.5), NULL
FROM generate_series(1, 100) n;
"""


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed")
    # Only root can enter pytest's own directory, and PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory() as directory:
        server = Postgres(Path(directory) / "server")
        server.start()
        try:
            server.run_sql(TABLE)
            yield f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        finally:
            server.stop()


def test_messages_keep_their_streams_times_and_ids(
    headwater_db: headwater.BlockingDatabase, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_db, "PAGE", 7)
    db = headwater_db
    with MessageDb(conninfo) as source:
        assert source.count() == 100
        done = import_events(db, source, name="m")
        assert (done.events, done.later) == (100, 0)
        assert verify(db, source, name="m") == 100
        ids = [each.id for each in source.events()]
    found = [*db.read_all()]
    assert [each.id for each in found] == ids
    assert found[0].time == datetime(2020, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert found[-1].data == {"n": 100, "x": 1.5}
    assert [each.version for each in db.read("account-1")] == [*range(1, 26)]
    assert [each.stream for each in db.read_all(category="account:command", limit=1)] == [
        "account:command-1"
    ]
    assert position_of(db, "m", 51) == 25


def test_a_category_alone_and_a_second_import(
    headwater_db: headwater.BlockingDatabase, conninfo: str
) -> None:
    with MessageDb(conninfo, category="account") as source:
        assert source.count() == 50
        assert import_events(headwater_db, source, name="m").events == 50
    with MessageDb(conninfo, category="account") as source:
        assert import_events(headwater_db, source, name="m").written == 0
    assert {each.stream for each in headwater_db.read_all()} == {"account-1", "account-2"}


def test_a_server_that_is_not_there_is_named() -> None:
    with (
        pytest.raises(headwater.InvalidArgument, match="cannot connect to PostgreSQL"),
        MessageDb("postgresql://127.0.0.1:1/none?connect_timeout=2"),
    ):
        raise AssertionError("connected")


def test_events_are_read_as_they_are_stored() -> None:
    made = message_db._event(7, "s-1", 0, UUID(int=1), "T", {}, None, datetime(2020, 1, 1))  # noqa: DTZ001
    assert (made.position, made.version, made.time) == (7, 1, datetime(2020, 1, 1, tzinfo=UTC))
