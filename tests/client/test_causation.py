"""Which event caused which: by itself in handlers, overridable, and found again. On all faces."""

import itertools
import pickle
import uuid

import pytest

import headwater
from headwater import Event, RecordedEvent, cause
from headwater.causation import CORRELATION_SIZE_MAX
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.mark.parametrize("face", FACES[:3])
def test_what_a_handler_appends_carries_its_event_and_the_chain(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def handler(tx: headwater.Transaction, event: RecordedEvent) -> None:
        if event.data < 3:
            tx.append(f"{name}-{event.data + 1}", Event("Next", event.data + 1, tags=["own"]))

    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{name}-0", Event("First", 0))
        await db.groups.create(name, prefix=name)
        await db.consume(name, handler, until_caught_up=True)
        events = [event async for event in db.read_all(prefix=name)]
        assert [event.data for event in events] == [0, 1, 2, 3]
        root = events[0]
        assert (root.causation, root.correlation, root.tags) == (None, None, ())
        for before, after in itertools.pairwise(events):
            assert after.causation == before.id
            assert after.correlation == str(root.id)
            assert after.tags == ("own",)
            assert [each async for each in db.caused_by(before)] == [after]
            assert [each async for each in db.caused_by(before.id, limit=1)] == [after]
        assert [each async for each in db.caused_by(events[-1])] == []
        for chain in (root, root.id, str(root.id), events[2]):
            assert [each async for each in db.correlated(chain)] == events[1:]
        past = db.at(commit=events[1].commit)
        assert [each async for each in past.correlated(root)] == [events[1]]

    run_on(face, real_server.url, scenario)


def test_a_blocking_handler_has_its_event_as_the_cause(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    def handler(tx: headwater.BlockingTransaction, event: RecordedEvent) -> None:
        tx.append(f"{name}-2", Event("Next"))

    with headwater.connect_blocking(real_server.url) as db:
        db.append(f"{name}-1", Event("First"))
        db.groups.create(name, stream=f"{name}-1")
        db.consume(name, handler, until_caught_up=True)
        (first,) = db.read(f"{name}-1")
        (second,) = db.caused_by(first)
        assert (second.stream, second.correlation) == (f"{name}-2", str(first.id))


@pytest.mark.parametrize("face", FACES[:3])
def test_a_projection_s_handler_has_its_event_as_the_cause(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        @db.projection(f"{name}-alone", stream=name)
        async def alone(tx: headwater.ProjectionTransaction, event: RecordedEvent) -> None:
            tx.append(f"{name}-alone", Event("Seen", event.data))

        @db.projection(f"{name}-list", stream=name, batched=True)
        async def listed(tx: headwater.ProjectionTransaction, events: list[RecordedEvent]) -> None:
            for event in events:
                with cause(event):
                    tx.append(f"{name}-list", Event("Seen", event.data))
            tx.append(f"{name}-list", Event("None"))

        done = await db.append(name, [Event("A", 1), Event("A", 2)])
        async with db.run_projections():
            await db.wait_for(f"{name}-alone", done)
            await db.wait_for(f"{name}-list", done)
        async for event in db.read(name):
            effects = [(each.stream, each.data) async for each in db.caused_by(event)]
            assert sorted(effects) == [(f"{name}-alone", event.data), (f"{name}-list", event.data)]
        async for event in db.read(f"{name}-list", types=["None"]):
            assert event.causation is None

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_cause_is_set_overridden_and_taken_away(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        with cause(correlation=f"{name}-request"):
            await db.append(name, Event("A", tags=["t"]))
            with cause():
                await db.append(name, Event("B"))
        (first, second) = [event async for event in db.read(name)]
        assert (first.causation, first.correlation) == (None, f"{name}-request")
        assert (first.tags, second.stored_tags) == (("t",), ())
        assert first.stored_tags == ("t", f"$correlation:{name}-request")
        other = uuid.uuid4()
        with cause(first):
            batch = db.batch()
            batch.append(name, [Event("C"), Event("D", causation=other, correlation="x")])
            await db.execute(batch)
            with cause(first, correlation="mine"):
                await db.append(name, Event("E", tags=first.stored_tags))
                await db.append(name, Event("F"))
        rest = [event async for event in db.read(name, after=2)]
        assert [(event.causation, event.correlation) for event in rest] == [
            (first.id, f"{name}-request"),
            (other, "x"),
            # A copy keeps what it says.
            (None, f"{name}-request"),
            (first.id, "mine"),
        ]
        assert headwater.current_cause() is None
        assert pickle.loads(pickle.dumps(rest[0])) == rest[0]
        with (
            pytest.raises(headwater.InvalidArgument, match="expected a RecordedEvent"),
            cause("event"),  # type: ignore[arg-type]
        ):
            pass
        for wrong in ("", "x" * (CORRELATION_SIZE_MAX + 1), 7):
            with pytest.raises(headwater.InvalidArgument, match="correlation"):
                db.batch().append(name, Event("A", correlation=wrong))  # type: ignore[arg-type]
        with cause(correlation="é" * (CORRELATION_SIZE_MAX // 2)):
            await db.append(name, Event("G"))
        with pytest.raises(headwater.InvalidArgument, match="expected an event"):
            db.caused_by("id")  # type: ignore[arg-type]

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_an_event_that_is_stored_is_done_whatever_causes_it(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.append(name, [Event("A"), Event("B")])
        first, second = [event async for event in db.read(name)]
        same = Event("Done", 1, id=uuid.uuid4(), tags=["t"])
        with cause(first):
            await db.append(f"{name}-x", same)
        with cause(second):
            await db.append(f"{name}-x", same)
        await db.append(f"{name}-x", same)
        (stored,) = [event async for event in db.read(f"{name}-x")]
        assert stored.causation == first.id
        with pytest.raises(headwater.DuplicateEvent), cause(second):
            await db.append(f"{name}-x", Event("Done", 1, id=same.id, tags=["u"]))

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_chain_stays_when_the_data_of_an_event_is_erased(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.append(name, Event("A", 1))
        (first,) = [event async for event in db.read(name)]
        with cause(first):
            await db.append(f"{name}-x", Event("B", 2))
        await db.erase(f"{name}-x", versions=[1])
        (effect,) = [event async for event in db.caused_by(first)]
        assert (effect.data, effect.erased, effect.causation) == (None, True, first.id)

    run_on(face, real_server.url, scenario)
