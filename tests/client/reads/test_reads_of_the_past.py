"""The version of a stream, and states and events up to a version or a time: on all faces."""

import uuid
from datetime import timedelta
from pathlib import Path

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on

TOTALS = headwater.Repository(
    0, lambda state, event: state + event.data, snapshot_every=2, name="totals"
)


@pytest.mark.parametrize("face", FACES)
def test_the_version_is_what_an_append_may_expect(face: str, real_server: ServerProcess) -> None:
    stream = f"counter-{uuid.uuid4().hex}"

    async def scenario(db: headwater.Database) -> None:
        assert await db.version(stream) == 0
        first = await db.append(stream, [Event("Counted", 1)] * 3)
        assert await db.version(stream) == 3
        async with db.transaction() as tx:
            tx.append(stream, Event("Counted", 1), expect=await tx.version(stream))
            assert await tx.version(stream) == 4
        await db.truncate(stream, before=3)
        assert await db.version(stream) == 4
        await db.delete_stream(stream)
        assert await db.version(stream) == 0
        await db.append(stream, Event("Counted", 1), expect=await db.version(stream))
        assert await db.version(stream) == 5
        assert await db.at(commit=first.commit).version(stream) == 3

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_state_can_be_of_any_version_and_time(face: str, tmp_path: Path) -> None:
    stream = f"counter-{uuid.uuid4().hex}"

    async def scenario(db: headwater.Database) -> None:
        totals = TOTALS.on(db)
        for number in (1, 2, 4, 8, 16, 32):
            await totals.decide(stream, lambda _, amount: Event("Counted", amount), number)
        for version in range(7):
            assert await totals.load(stream, version=version) == (2**version - 1, version)
        times = [event.time async for event in db.read(stream)]
        for version, time in enumerate(times, 1):
            state, found = await totals.load(stream, time=time)
            assert found >= version
            assert state == 2**found - 1
        assert await totals.load(stream, time=times[0] - timedelta(days=1)) == (0, 0)
        loaded = await db.load(stream, name="totals", upto=1)
        assert (loaded.version, len(loaded.events), loaded.is_whole) == (1, 1, True)
        with pytest.raises(headwater.InvalidArgument, match="is at version 6"):
            await totals.load(stream, version=7)
        with pytest.raises(
            headwater.InvalidArgument, match="give one of version=, time= and commit="
        ):
            await totals.load(stream, version=1, time=times[0])
        await db.truncate(stream, before=4)
        async for snapshot in db.snapshots():
            assert snapshot.version >= 3
        with pytest.raises(headwater.StreamTruncated):
            await totals.load(stream, version=1)
        with pytest.raises(headwater.StreamTruncated):
            await totals.load(stream, time=times[0] - timedelta(days=1))

    # Others' snapshots, which may be unreadable, are in the shared server.
    with ServerProcess(tmp_path) as server:
        run_on(face, server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_reads_end_with_a_time(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    stream = f"{name}-1"

    async def scenario(db: headwater.Database) -> None:
        for number in range(300):
            await db.append(stream, Event("Even" if number % 2 else "Odd", number))
        times = [event.time async for event in db.read(stream)]
        for first, last in ((0, 299), (0, 0), (100, 199), (299, 299)):
            since, until = times[first], times[last]
            expected = [n for n, time in enumerate(times, 1) if since <= time <= until]
            for found, wanted in (
                (db.read(stream, since=since, until=until), expected),
                (db.read_all(category=name, since=since, until=until), expected),
                (db.read(stream, since=since, until=until, reverse=True), expected[::-1]),
                (db.read_all(stream=stream, until=until, reverse=True, limit=3), None),
                (db.read(stream, until=until, after=150), None),
            ):
                versions = [event.version async for event in found]
                if wanted is not None:
                    assert versions == wanted
                assert all(times[version - 1] <= until for version in versions)
        newest = [v.version async for v in db.read(stream, until=times[99], reverse=True, limit=1)]
        assert times[newest[0] - 1] == times[99]
        early = times[0] - timedelta(microseconds=1)
        assert [event async for event in db.read(stream, until=early)] == []
        assert [event async for event in db.read(stream, until=early, reverse=True)] == []
        async with db.transaction() as tx:
            tx.append(stream, Event("Own"))
            assert len([event async for event in tx.read(stream, until=early)]) == 0

    run_on(face, real_server.url, scenario)
