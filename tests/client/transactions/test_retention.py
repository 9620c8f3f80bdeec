"""Retention, erasure and listings on all three faces of the client."""

import uuid
from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return uuid.uuid4().hex


@pytest.mark.parametrize("face", FACES)
def test_no_read_returns_hidden_events_and_erased_ones_have_no_data(
    face: str, real_server: ServerProcess, name: str
) -> None:
    stream = f"{name}-1"

    async def scenario(db: headwater.Database) -> None:
        given = uuid.uuid4()
        events = [headwater.Event("T", {"n": n}, {"by": "me"}, tags=["x"]) for n in range(1, 9)]
        done = await db.append(stream, [*events, headwater.Event("T", None, id=given)])
        assert done.last_position is not None
        before = await db.truncate(stream, before=3)
        await db.erase(stream, versions=range(4, 6))
        await db.erase(positions=[done.last_position - 1])
        await db.erase(stream, ids=[given])
        found = [event async for event in db.read(stream)]
        assert [event.version for event in found] == [*range(3, 10)]
        assert [event.version for event in found if event.erased] == [4, 5, 8, 9]
        erased = found[1]
        assert (erased.data, erased.metadata, erased.tags) == (None, None, ("x",))
        past = db.at(commit=before.commit - 1)
        assert [event.version async for event in past.read(stream)] == [*range(1, 10)]
        assert [event.erased async for event in past.read(stream, limit=4)][3]
        with pytest.raises(headwater.NoSuchEvent, match="no version 10"):
            await db.erase(stream, versions=[1, 10])
        await db.set_retention(stream, max_count=2, max_age=timedelta(days=1))
        listed = [each async for each in db.streams(prefix=name)]
        kept = timedelta(days=1)
        assert [astuple(each) for each in listed] == [(stream, 9, 8, 2, kept, 1)]
        listed = [each async for each in past.streams(prefix=name)]
        assert [astuple(each) for each in listed] == [(stream, 9, 1, None, None, 1)]
        assert headwater.CategoryInfo(name, 9) in [each async for each in db.categories()]
        async with db.transaction() as tx:
            tx.delete_stream(stream)
            tx.append(stream, headwater.Event("Again", 1), expect=headwater.NO_STREAM)
        assert [event.type async for event in db.read(stream)] == ["Again"]
        assert tx.committed.versions == {stream: 10}

    run_on(face, real_server.url, scenario)


def test_invalid_arguments_are_refused_at_the_call(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        wrong: list[Callable[[], object]] = [
            db.erase,
            lambda: db.erase(name),
            lambda: db.erase(name, positions=[1]),
            lambda: db.erase(versions=[1]),
            lambda: db.erase(name, versions=[1], ids=[uuid.uuid4()]),
            lambda: db.erase(name, versions=[]),
            lambda: db.erase(name, versions=[0]),
            lambda: db.erase(name, versions=["1"]),  # type: ignore[list-item]
            lambda: db.erase(name, ids=["1"]),  # type: ignore[list-item]
            lambda: db.truncate("", before=1),
            lambda: db.truncate(name, before=-1),
            lambda: db.truncate(name, before=2),
            lambda: db.set_retention(name, max_count=0),
            lambda: db.set_retention(name, max_age=-1),
            lambda: db.set_retention(name, max_age="a day"),  # type: ignore[arg-type]
        ]
        for call in wrong:
            with pytest.raises((headwater.InvalidArgument, headwater.TooLarge)):
                call()
        assert not list(db.streams(prefix=name))
