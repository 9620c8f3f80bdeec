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
