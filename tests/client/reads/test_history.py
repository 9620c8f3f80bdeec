"""Looking into a database: events by their ids, histories, commits. On all faces."""

import uuid

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.mark.parametrize("face", FACES)
def test_an_event_is_found_by_its_id(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        given = uuid.uuid4()
        first = await db.append(name, [Event("A", 1), Event("B", 2, id=given), Event("C", 3)])
        for event in [event async for event in db.read(name)]:
            assert await db.find_event(event.id) == event
        await db.append(f"{name}-2", Event("B", 4, id=given))
        found = await db.find_event(given)
        assert found is not None
        assert (found.stream, found.data) == (f"{name}-2", 4)
        past = await db.at(commit=first.commit).find_event(given)
        assert past is not None
        assert (past.stream, past.data) == (name, 2)
        assert await db.find_event(uuid.uuid4()) is None
        with pytest.raises(headwater.InvalidArgument, match="expected the UUID"):
            await db.find_event(given.hex)  # type: ignore[arg-type]

    run_on(face, real_server.url, scenario)


def test_the_blocking_database_finds_an_event(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    with headwater.connect_blocking(real_server.url) as db:
        db.append(name, Event("A", 1))
        (event,) = db.read(name)
        assert db.find_event(event.id) == event
        assert db.at(commit=event.commit).find_event(event.id) == event


@pytest.mark.parametrize("face", FACES)
def test_the_history_of_a_key_says_from_what_to_what(face: str, real_server: ServerProcess) -> None:
    key = (uuid.uuid4().hex, 1)

    async def scenario(db: headwater.Database) -> None:
        commits = []
        for number in range(300):
            commits.append(await db.put(key, number))
        deleted = await db.delete(key)
        found = [version async for version in db.history(key)]
        assert len(found) == 301
        assert [(each.old, each.new) for each in found[1:-1]] == [
            (number - 1, number) for number in range(299, 0, -1)
        ]
        assert (found[0].old, found[0].exists, found[0].existed) == (299, False, True)
        assert (found[-1].new, found[-1].existed, found[-1].old) == (0, False, None)
        assert found[0].commit == deleted.commit
        assert found[-1].time == commits[0].time
        some = [version async for version in db.history(key, limit=3)]
        assert [(each.old, each.new) for each in some] == [(299, None), (298, 299), (297, 298)]
        past = db.at(commit=commits[1].commit).history(key)
        assert [(each.old, each.new) async for each in past] == [(0, 1), (None, 0)]
        assert [each async for each in db.history((key[0], 2))] == []

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_streams_snapshots_and_branches_are_listed(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        first = await db.append(f"{name}-1", [Event("A", n) for n in range(200)])
        await db.append(f"{name}-2", Event("B"))
        async with db.transaction() as tx:
            tx.save_snapshot(f"{name}-1", version=200, state={"n": 1}, schema=3, name="s")
            for number in range(7):
                tx.put((name, "x", number), number)
            tx.put((name, "y"), 1)
        assert tx.committed is not None
        entries = [entry async for entry in db.stream_history(f"{name}-1")]
        assert [entry.event.version for entry in entries] == list(range(200, 0, -1))
        assert {entry.user for entry in entries} == {None}
        streams = [each async for each in db.described_streams(prefix=f"{name}-")]
        assert [(each.info.stream, each.type, each.position) for each in streams] == [
            (f"{name}-1", "A", first.last_position),
            (f"{name}-2", "B", (first.last_position or 0) + 1),
        ]
        assert streams[0].time == first.time
        (snapshot,) = [each async for each in db.snapshots_of(f"{name}-1")]
        assert (snapshot.name, snapshot.schema, snapshot.version) == ("s", 3, 200)
        assert (snapshot.commit, snapshot.time) == (tx.committed.commit, tx.committed.time)
        branches = [each async for each in db.branches((name,), count=5)]
        assert branches == [
            headwater.Branch((name, "x"), False, 5, True),
            headwater.Branch((name, "y"), True, 0, False),
        ]
        assert [each.prefix async for each in db.branches((name, "x"), limit=2)] == [
            (name, "x", 0),
            (name, "x", 1),
        ]
        assert (name,) in [each.prefix async for each in db.branches()]
        before = db.at(commit=first.commit)
        assert [each async for each in before.branches((name,))] == []
        assert [each async for each in before.snapshots_of(f"{name}-1")] == []
        assert [each.info.stream async for each in before.described_streams(prefix=name)] == [
            f"{name}-1"
        ]
        with pytest.raises(headwater.InvalidArgument, match="allowed are 1 to 1000"):
            db.branches(count=0)

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_commits_are_listed_counted_and_shown(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.put((name, 1), "one")
            tx.put((name, 2), "two")
            tx.append(name, [Event("A", 1), Event("A", 2)])
        assert tx.committed is not None
        commit = tx.committed.commit
        later = await db.append(name, Event("B", 3))
        listed = [each.commit async for each in db.commits(reverse=True, limit=300)]
        assert listed == list(range(listed[0], listed[0] - len(listed), -1))
        until = [each.commit async for each in db.commits(reverse=True, until=commit, limit=2)]
        assert until == [commit, commit - 1][: len(until)]
        forwards = db.commits(after=commit - 1, until=commit)
        assert [each.commit async for each in forwards] == [commit]
        contents = await db.read_commit(commit)
        assert (contents.record.events, contents.keys, contents.snapshots) == (2, 2, ())
        changes = [each async for each in db.changes(commit, (name,))]
        assert [(each.key, each.existed, each.new) for each in changes] == [
            ((name, 1), False, "one"),
            ((name, 2), False, "two"),
        ]
        assert [each.key async for each in db.changes(commit, limit=1)] == [(name, 1)]
        assert [event.data async for event in await db.events_of(commit)] == [1, 2]
        marks = await db.count_commits(slices=10)
        assert len(marks) == 11
        assert (marks[-1].commit, marks[-1].position) >= (later.commit, later.last_position)
        marks = await db.count_events(after=commit - 1, until=commit)
        assert [mark.commit for mark in marks] == [commit - 1, commit]
        assert marks[1].position - marks[0].position == 2
        span = await db.known_span()
        assert span.recorded.commit <= commit <= span.newest.commit
        read = db.read(name, until_commit=commit)
        assert [event.data async for event in read] == [1, 2]
        backwards = db.read(name, until_commit=commit, reverse=True, limit=1)
        assert [event.data async for event in backwards] == [2]
        everything = db.read_all(until_commit=commit, reverse=True, limit=3)
        assert [event.data async for event in everything][:2] == [2, 1]
        assert [event async for event in db.read(name, until_commit=0)] == []
        with pytest.raises(headwater.NoSuchCommit):
            [event async for event in db.read(name, until_commit=later.commit + 10**6)]
        async with db.transaction() as tx:
            tx.append(name, Event("C", 4))
            own = tx.read(name, until_commit=later.commit)
            assert [event.data async for event in own] == [1, 2, 3]

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_groups_are_seen_as_they_were(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.append(name, [Event("A", n) for n in range(3)])
        before = (await db.ping()).commit
        await db.groups.create(name, stream=name)
        created = (await db.ping()).commit
        async with db.join(name, until_caught_up=True) as group:
            async for delivery in group:
                await delivery.park("broken")
        assert [each.event.data async for each in db.groups.parked(name) if each.event] == [0]
        assert [each async for each in db.groups.parked(name, commit=created)] == []
        then = await db.groups.info(name, commit=created)
        assert (then.parked, then.members, then.waiting) == (0, 0, 0)
        now = await db.groups.info(name)
        assert (now.parked, now.waiting) == (1, 2)
        assert name in [each.name for each in await db.groups.list(commit=created)]
        assert name not in [each.name for each in await db.groups.list(commit=before)]
        with pytest.raises(headwater.NoSuchGroup):
            await db.groups.info(name, commit=before)

    run_on(face, real_server.url, scenario)
