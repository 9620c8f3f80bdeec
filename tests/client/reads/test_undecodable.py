"""Undecodable data does not affect other data, in every kind of read.

Another client used another codec, so this client's codec cannot decode some of the data.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

import pytest

import headwater
from headwater import Event, RecordedEvent
from headwater.cli.server_process import ServerProcess
from headwater_protocol.keys import encode_key
from tests.client.faces import FACES, run_on

GOOD = b"\x07"
BAD = b"\xc1 of another codec"
COUNT = 9
BAD_ONES = (1, 4, 5, 9)
"""The versions of the bad events, and the last members of the bad keys."""


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stream(real_server: ServerProcess) -> str:
    """A stream of nine events, four of them bad."""
    name = f"{uuid.uuid4().hex}-1"

    async def write(db: headwater.Database) -> None:
        # Some bad events have bad data, and some bad metadata.
        events = [
            Event("A", *((BAD, b"\x01") if n % 2 else (GOOD, BAD)) if n in BAD_ONES else (GOOD,))
            for n in range(1, COUNT + 1)
        ]
        await db.append(name, events)

    run_on("blocking", real_server.url, write, codec=headwater.RawCodec())
    return name


def check(events: Iterable[RecordedEvent], stream: str) -> None:
    """Check that all events exist, that the good ones can be read, and that errors name the bad."""
    events = [*events]
    assert [event.version for event in events] == [*range(1, COUNT + 1)]
    for event in events:
        if event.version not in BAD_ONES:
            assert event.data == 7
            continue
        with pytest.raises(headwater.Undecodable) as raised:
            event.data  # noqa: B018
        place = {"stream": stream, "version": event.version, "position": event.position}
        assert place.items() <= raised.value.details.items()
        assert f"event {event.version} of {stream}" in str(raised.value)


def test_every_kind_of_read_returns_all_events(
    face: str, real_server: ServerProcess, stream: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        check([event async for event in db.read(stream)], stream)
        check([event async for event in db.read_all(stream=stream)], stream)
        check((await db.load(stream)).events, stream)
        batch = db.batch()
        batch.read(stream)
        check((await db.execute(batch)).results[0], stream)
        commit = (await db.ping()).commit
        check([event async for event in db.at(commit=commit).read(stream)], stream)
        async with db.transaction() as tx:
            check([event async for event in tx.read(stream)], stream)
            check((await tx.load(stream)).events, stream)

    run_on(face, real_server.url, scenario)


def test_a_subscription_delivers_all_events(
    face: str, real_server: ServerProcess, stream: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        events: list[RecordedEvent] = []
        async with db.subscribe(stream=stream) as feed:
            async for item in feed:
                if isinstance(item, headwater.CaughtUp):
                    break
                assert isinstance(item, headwater.EventBatch)
                events += item
        check(events, stream)

    run_on(face, real_server.url, scenario)


def test_a_group_delivers_all_events_and_lists_all_parked_ones(
    face: str, real_server: ServerProcess, stream: str
) -> None:
    group = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.groups.create(group, stream=stream, parked_stream="continue")
        async with db.join(group, until_caught_up=True) as membership:
            async for delivery in membership:
                assert delivery.event.type == "A"
                await delivery.park("for a test")
        parked = [one async for one in db.groups.parked(group)]
        assert {one.reason for one in parked} == {"for a test"}
        check([one.event for one in parked if one.event is not None], stream)

    run_on(face, real_server.url, scenario)


def test_a_projection_handles_good_events_and_parks_the_stream_of_a_bad_one(
    real_server: ServerProcess, stream: str
) -> None:
    name, good = uuid.uuid4().hex, f"{stream}-good"
    category = stream.partition("-")[0]

    async def scenario(db: headwater.Database) -> None:
        done = await db.append(good, [Event("A", 7)] * 3)
        assert done.last_position is not None

        @db.projection(name, category=category, attempts=1)
        async def handle(tx: Any, event: RecordedEvent) -> None:
            tx.model.add(event.stream, event.data)

        async with db.run_projections(name):
            await db.wait_for(name, done.last_position)
        assert await db.model(name).get(good) == 21
        assert [one.stream for one in await db.projections.parked(name)] == [stream]

    run_on("trio", real_server.url, scenario)


def test_feeds_of_keys_and_scans_return_all_keys(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def write(raw: headwater.Database) -> int:
        start = (await raw.ping()).commit
        async with raw.transaction() as tx:
            for n in range(COUNT):
                tx.put((name, n), BAD if n in BAD_ONES else GOOD)
        await raw.put((name, 0), BAD)
        return start

    start = run_on(face, real_server.url, write, codec=headwater.RawCodec())

    async def read(db: headwater.Database) -> None:
        changes: list[headwater.KeyChange] = []
        async with db.subscribe(keys=(name,), after=start) as feed:
            async for item in feed:
                if isinstance(item, headwater.CaughtUp):
                    break
                assert isinstance(item, headwater.Changes)
                changes += item.changes
                assert int(feed.position) == item.commit
        assert [change.key[1] for change in changes] == [*range(COUNT), 0]
        for change in changes[:-1]:
            if change.key[1] not in BAD_ONES:
                assert (change.old, change.new, change.exists) == (None, 7, True)
                continue
            with pytest.raises(headwater.Undecodable, match=name):
                change.new  # noqa: B018
            assert "new=(undecodable)" in repr(change)
        last = changes[-1]
        assert (last.old, last.existed, last.exists) == (7, True, True)

        pages = db.scan((name,))
        good: list[Any] = []
        bad: list[bytes] = []
        while True:
            try:
                (_, n), value = await anext(pages)
                good.append((n, value))
            except headwater.Undecodable as error:
                bad.append(error.details["key"])
            except StopAsyncIteration:
                break
        assert good == [(n, 7) for n in range(1, COUNT) if n not in BAD_ONES]
        assert bad == [encode_key((name, n)) for n in (0, *BAD_ONES) if n < COUNT]

    run_on(face, real_server.url, read)


def test_a_key_that_is_not_a_tuple_hides_no_other_key(
    face: str, real_server: ServerProcess
) -> None:
    """Another client wrote a key that is not a tuple. It lies between two keys that are tuples."""
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.put((name, 1), 1)
        await db.put((name, 2), 2)
        batch = db.batch()
        batch.put((name, 1, "x"), 3)
        # Replace the third member of the key by a type code that does not exist.
        batch._writes[0][1] = batch._writes[0][1][:-3] + b"\xfe"
        commit = (await db.execute(batch)).committed.commit

        pages = db.scan((name,))
        assert await anext(pages) == ((name, 1), 1)
        with pytest.raises(headwater.Undecodable, match="no type has the code 0xfe"):
            await anext(pages)
        assert await anext(pages) == ((name, 2), 2)
        async with db.subscribe(keys=(name,), after=commit - 1) as feed:
            item = await anext(feed)
            assert isinstance(item, headwater.Changes)
            [change] = item.changes
            assert change.new == 3
            with pytest.raises(headwater.Undecodable):
                change.key  # noqa: B018
            assert "key=(undecodable)" in repr(change)

    run_on(face, real_server.url, scenario)


def test_the_error_of_an_event_of_a_newer_schema_names_it_and_other_events_are_read(
    face: str, real_server: ServerProcess
) -> None:
    """The ordinary case: an old process during a deployment."""
    stream = uuid.uuid4().hex
    old, new = headwater.EventTypes(), headwater.EventTypes()
    old.register("A")
    new.register("A", schema=2)

    async def write(db: headwater.Database) -> None:
        await db.append(stream, Event("A", 1))
        await db.append(stream, Event("B", 2))

    async def read(db: headwater.Database) -> None:
        first, second = [event async for event in db.read(stream)]
        with pytest.raises(headwater.Undecodable, match="the newest schema known here is 1") as it:
            first.data  # noqa: B018
        assert (it.value.details["stream"], it.value.details["version"]) == (stream, 1)
        assert second.data == 2

    run_on(face, real_server.url, write, codec=headwater.TypedCodec(new))
    run_on(face, real_server.url, read, codec=headwater.TypedCodec(old))


class JsonCodec:
    """A codec of the application, which cannot read what projections store."""

    def encode(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def decode(self, data: bytes) -> Any:
        return json.loads(data)


def test_all_keys_can_be_read_beside_a_projection_whatever_the_codec(
    real_server: ServerProcess,
) -> None:
    """Its records are msgpack, and the scan of all keys ended at the first of them."""
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        start = (await db.ping()).commit
        await db.put((name, "mine"), {"a": 1})

        @db.projection(name, category=name)
        async def handle(tx: Any, event: RecordedEvent) -> None:
            tx.model.put("data", event.data)

        done = await db.append(f"{name}-1", Event("A", [1]))
        async with db.run_projections(name):
            await db.wait_for(name, done)
        found = [key async for key, _ in db.scan(("$projection", name))]
        assert ("$projection", name) in found
        async with db.subscribe(keys=(), after=start) as feed:
            async for item in feed:
                if isinstance(item, headwater.CaughtUp):
                    break
                assert isinstance(item, headwater.Changes)
                for change in item.changes:
                    if change.key[0] == name:
                        assert change.new == {"a": 1}
                    elif name in change.key:
                        assert change.new is not None

    run_on("trio", real_server.url, scenario, codec=JsonCodec())
