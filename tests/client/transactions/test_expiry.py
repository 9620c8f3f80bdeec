"""Keys that expire, on all faces of the client."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.codecs.codec import MsgpackCodec
from headwater.transactions.writes import Writes
from tests.client.faces import FACES, run_on

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("face", FACES)
def test_a_key_expires_and_a_feed_tells_it(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        start = (await db.ping()).commit
        async with db.subscribe(keys=(name,), after=start) as feed:
            await db.put((name, "lease"), "ann", ttl=0.02)
            await db.put((name, "kept"), "bob", ttl=timedelta(hours=1))
            changes: list[headwater.KeyChange] = []
            async for item in feed:
                if isinstance(item, headwater.Changes):
                    changes += item.changes
                    if item.changes[-1].expired:
                        break
        gone = changes[-1]
        assert (gone.key, gone.old, gone.exists) == ((name, "lease"), "ann", False)
        assert not any(change.expired for change in changes[:-1])
        assert await db.get((name, "lease")) is None
        assert await db.get((name, "kept")) == "bob"

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_the_time_of_a_key_can_be_read_moved_and_taken_away(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex
    key = (name, "session")

    async def scenario(db: headwater.Database) -> None:
        assert await db.ttl(key) is None
        assert await db.get_entry(key) is None
        assert await db.touch(key, ttl=10) is False
        await db.put(key, {"user": 7}, expires_at=FAR)
        assert await db.get_entry(key) == headwater.Entry({"user": 7}, FAR)
        assert await db.touch(key, ttl=100) is True
        left = await db.ttl(key)
        assert left is not None
        assert 0 < left <= 100
        assert [found async for found, _ in db.expiries((name,))] == [key]
        assert await db.touch(key) is True
        assert await db.ttl(key) is None
        assert await db.get_entry(key) == headwater.Entry({"user": 7}, None)
        assert [each async for each in db.expiries((name,))] == []
        first = await db.put(key, 1, expires_at=FAR)
        await db.put(key, 2)
        assert await db.get_entry(key) == headwater.Entry(2, None)
        assert await db.at(commit=first.commit).get_entry(key) == headwater.Entry(1, FAR)

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_transactions_and_batches_write_and_read_expiries(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex
    a, b = (name, "a"), (name, "b")

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put(a, 1, expires_at=FAR)
            tx.put(b, 2, expires_at=FAR)
            tx.touch(b)
            assert [item async for item in tx.expiries((name,))] == [(a, FAR)]
            entry = await tx.get_entry(a)
            assert entry == headwater.Entry(1, FAR)
        batch = db.batch()
        places = batch.get_entry(a), batch.ttl(b), batch.exists(b), batch.exists((name, "c"))
        batch.touch(a)
        done = await db.execute(batch)
        assert [done.results[place] for place in places] == [entry, None, True, False]
        assert await db.ttl(a) is None

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("ttl", [0, -1, True, "1", float("inf"), float("nan"), timedelta(0), 1e18])
def test_a_wrong_time_to_live_is_refused_and_nothing_is_written(ttl: Any) -> None:
    writes = Writes(MsgpackCodec())
    with pytest.raises(headwater.InvalidArgument, match="put: ttl: expected a number of seconds"):
        writes.put("k", 1, ttl=ttl)
    with pytest.raises(headwater.InvalidArgument, match="touch: ttl"):
        writes.touch("k", ttl=ttl)
    assert writes._writes == []


def test_a_time_without_a_zone_and_two_times_are_refused() -> None:
    writes = Writes(MsgpackCodec())
    with pytest.raises(headwater.InvalidArgument, match="with a time zone"):
        writes.put("k", 1, expires_at=datetime(2100, 1, 1))  # noqa: DTZ001
    with pytest.raises(headwater.InvalidArgument, match="either ttl= or expires_at="):
        writes.put("k", 1, ttl=1, expires_at=FAR)
    assert writes._writes == []
