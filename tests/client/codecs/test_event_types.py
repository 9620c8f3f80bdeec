"""Classes and upcasters for the data of events."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.codecs.event_types import EventTypes, TypedCodec
from headwater.codecs.events import event_views
from headwater.records import Event, RecordedEvent
from headwater.transactions.batch import Batch
from headwater_protocol.numbers import CommitNumber, Position, StreamVersion
from tests.client.faces import FACES, run_on


@dataclass(frozen=True)
class Deposited:
    amount: Decimal
    currency: str


class Withdrawn(msgspec.Struct, frozen=True):
    amount: Decimal


class Renamed(pydantic.BaseModel):
    name: str


class Colour(Enum):
    RED = "red"


def stored(kind: str, data: Any, metadata: Any = None) -> RecordedEvent:
    return RecordedEvent(
        Position(9),
        "account-ann",
        StreamVersion(4),
        CommitNumber(2),
        datetime.now(UTC),
        UUID(int=1),
        kind,
        data,
        metadata,
    )


def deposits() -> EventTypes:
    """Schema 1 was a number of cents, schema 2 an amount, schema 3 has a currency."""
    types = EventTypes()
    types.register("Deposited", Deposited, schema=3)
    types.upcaster("Deposited", 1, lambda cents: {"amount": Decimal(cents) / 100})
    types.upcaster("Deposited", 2, lambda data: {**data, "currency": "EUR"})
    return types


@pytest.mark.parametrize("face", FACES)
def test_objects_are_written_and_returned_by_every_kind_of_read(
    face: str, real_server: ServerProcess
) -> None:
    types = deposits()
    types.register("Withdrawn", Withdrawn)
    types.register("Renamed", Renamed)
    stream = f"typed{face}-ann"
    deposited, withdrawn = Deposited(Decimal("1.10"), "CHF"), Withdrawn(Decimal(1))
    renamed = Renamed(name="Anne")
    wanted = [deposited, withdrawn, renamed, {"as": "it is"}]

    async def scenario(db: headwater.Database) -> None:
        await db.put("x", Colour.RED)
        assert await db.get("x") == "red"
        done = await db.append(
            stream,
            [
                types.event(deposited, metadata={"by": "bob"}),
                Event("Withdrawn", {"amount": Decimal(1)}),
                types.event(renamed, id=UUID(int=5), tags=["x"]),
                Event("Unheard", {"as": "it is"}),
            ],
        )
        assert done.first_position is not None
        events = [event async for event in db.read(stream)]
        assert [event.data for event in events] == wanted
        assert events[0].metadata == {"by": "bob"}
        assert events[2].tags == ("x",)
        assert [event.data for event in (await db.load(stream)).events] == wanted
        batch = db.batch()
        batch.read(stream)
        assert [event.data for event in (await db.execute(batch)).results[0]] == wanted
        async with db.subscribe(after=done.first_position - 1, stream=stream) as feed:
            item = await feed.__anext__()
            assert isinstance(item, headwater.EventBatch)
            assert [event.data for event in item] == wanted

    async def without_types(db: headwater.Database) -> None:
        first, *_ = [event async for event in db.read(stream)]
        assert first.data == {"amount": Decimal("1.10"), "currency": "CHF"}
        assert first.metadata == {"by": "bob", "$schema": 3}

    run_on(face, real_server.url, scenario, codec=TypedCodec(types))
    run_on(face, real_server.url, without_types)


@pytest.mark.parametrize("face", FACES)
def test_deliveries_of_a_consumer_group_contain_objects_too(
    face: str, real_server: ServerProcess
) -> None:
    types = deposits()
    category = f"grouped{face}"

    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{category}-ann", types.event(Deposited(Decimal("1.10"), "CHF")))
        await db.append(f"{category}-ann", Event("Withdrawn", "plain"))
        await db.groups.create(category, category=category)
        given = []
        async with db.join(category, until_caught_up=True) as group:
            async for delivery in group:
                given.append(delivery.event.data)
                await delivery.ack()
        assert given == [Deposited(Decimal("1.10"), "CHF"), "plain"]

    run_on(face, real_server.url, scenario, codec=TypedCodec(types))


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        (110, None),
        ({"amount": Decimal("1.1")}, {"$schema": 2}),
        ({"amount": Decimal("1.1"), "currency": "EUR"}, {"$schema": 3}),
    ],
)
def test_upcasters_are_applied_from_the_stored_schema_on(data: Any, metadata: Any) -> None:
    event = deposits().from_stored(stored("Deposited", data, metadata))
    assert event.data == Deposited(Decimal("1.1"), "EUR")
    assert event.metadata is None


def test_upcasters_without_a_class_give_plain_data_of_the_newest_schema() -> None:
    types = EventTypes()
    types.upcaster("Moved", 2, lambda data: {**data, "z": 0})
    types.upcaster("Moved", 1, lambda data: {"x": data[0], "y": data[1]})
    assert types.from_stored(stored("Moved", [1, 2])).data == {"x": 1, "y": 2, "z": 0}
    assert types.to_stored(Event("Moved", {})).metadata == {"$schema": 3}


def test_an_upcaster_that_fails_says_which_event_and_why() -> None:
    with pytest.raises(headwater.Undecodable) as raised:
        deposits().from_stored(stored("Deposited", "wild"))
    for part in ("event 4 of account-ann", "position 9", "type Deposited"):
        assert part in str(raised.value)
    assert "in schema 1: the upcaster to schema 2 failed: InvalidOperation" in str(raised.value)


@pytest.mark.parametrize(
    ("data", "metadata", "message"),
    [
        ({}, {"$schema": 4}, "in schema 4: the newest schema known here is 3"),
        ({}, {"$schema": 3}, "in schema 3: the data does not fit: TypeError"),
    ],
)
def test_data_of_an_unknown_schema_or_of_another_form_is_undecodable(
    data: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(headwater.Undecodable, match=message):
        deposits().from_stored(stored("Deposited", data, metadata))


def test_the_error_of_a_missing_upcaster_names_its_schema() -> None:
    types = EventTypes()
    types.register("Deposited", Deposited, schema=3)
    with pytest.raises(headwater.Undecodable, match="no upcaster from schema 1"):
        types.from_stored(stored("Deposited", 110))


def test_an_erased_event_has_no_data() -> None:
    types = deposits()
    gone = RecordedEvent(
        Position(9),
        "account-ann",
        StreamVersion(4),
        CommitNumber(2),
        datetime.now(UTC),
        UUID(int=1),
        "Deposited",
        None,
        None,
        erased=True,
    )
    assert types.from_stored(gone) == gone


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("Deposited", {"amount": 1}), "the data does not fit: TypeError"),
        (
            Event("Deposited", Deposited(Decimal(1), "EUR"), "text"),
            "must be a map, to carry schema 3; got 'text'",
        ),
        (Event("Deposited", Deposited(Decimal(1), "EUR"), {"$schema": 1}), "set by the codec"),
    ],
)
def test_an_event_that_could_not_be_read_back_is_refused(event: Event, message: str) -> None:
    with pytest.raises(headwater.InvalidArgument, match=message):
        deposits().to_stored(event)


def test_contradictory_registrations_are_refused() -> None:
    types = deposits()
    with pytest.raises(headwater.InvalidArgument, match="already registered"):
        types.register("Deposited", Withdrawn)
    with pytest.raises(headwater.InvalidArgument, match="Deposited is already the class of"):
        types.register("Paid", Deposited)
    with pytest.raises(headwater.InvalidArgument, match="there already is one"):
        types.upcaster("Deposited", 1, lambda data: data)
    with pytest.raises(headwater.InvalidArgument, match="registered with schema 3"):
        types.upcaster("Deposited", 3, lambda data: data)
    with pytest.raises(headwater.InvalidArgument, match="the minimum is 1"):
        types.register("Paid", schema=0)
    with pytest.raises(headwater.InvalidArgument, match="the first schema is 1"):
        types.upcaster("Moved", 0, lambda data: data)
    types.upcaster("Moved", 2, lambda data: data)
    with pytest.raises(headwater.InvalidArgument, match="an upcaster from schema 2"):
        types.register("Moved", schema=2)
    with pytest.raises(headwater.InvalidArgument, match="give both dump= and load="):
        types.register("Complex", complex, dump=str)
    with pytest.raises(
        headwater.InvalidArgument, match="complex is not registered as an event type"
    ):
        types.event(1j)


def test_a_class_of_another_kind_can_be_registered_with_functions() -> None:
    types = EventTypes()
    types.register("Turned", complex, dump=lambda value: [value.real, value.imag], load=load)
    assert types.to_stored(types.event(1j)).data == [0.0, 1.0]
    assert types.from_stored(stored("Turned", [0.0, 1.0])).data == 1j


def load(data: list[float]) -> complex:
    return complex(*data)


# What is accepted can be read.


@dataclass(frozen=True)
class Painted:
    colour: Colour


def points() -> EventTypes:
    types = deposits()
    types.register("Withdrawn", Withdrawn)
    types.register("Renamed", Renamed)
    types.register("Painted", Painted)
    types.register("Moved", complex, dump=lambda c: (c.real, c.imag), load=lambda d: complex(*d))
    return types


@pytest.mark.parametrize(
    ("event", "message"),
    [
        # Nothing checks these objects when they are made.
        (Event("Withdrawn", Withdrawn("a lot")), "Expected `decimal`, got `str`"),  # type: ignore[arg-type]
        (Event("Renamed", Renamed.model_construct(name=7)), "Renamed: the data"),
        (Event("Painted", Painted("pink")), "is not a valid Colour"),  # type: ignore[arg-type]
        (Event("Moved", complex, None), "does not fit"),
    ],
)
def test_an_object_that_could_not_be_read_again_is_refused(event: Event, message: str) -> None:
    """It was stored, and each read of it raised Undecodable from then on."""
    batch = Batch(TypedCodec(points()))
    with pytest.raises(headwater.InvalidArgument, match=message):
        batch.append("s", [Event("Unheard"), event])
    assert batch.request() == ([], [], [])


METADATA = st.none() | st.dictionaries(st.text(), st.integers(0, 9) | st.text(), min_size=1)
EVENTS = st.one_of(
    st.builds(
        Event,
        st.just("Deposited"),
        st.builds(Deposited, st.decimals(allow_nan=False), st.text()),
        METADATA,
    ),
    st.builds(Event, st.just("Withdrawn"), st.builds(Withdrawn, st.decimals(allow_nan=False))),
    st.builds(Event, st.just("Renamed"), st.builds(Renamed, name=st.text()), METADATA),
    st.builds(Event, st.just("Painted"), st.builds(Painted, st.sampled_from(Colour))),
    st.builds(Event, st.just("Painted"), st.builds(Painted, st.text())),
    st.builds(Event, st.just("Moved"), st.complex_numbers(allow_nan=False)),
    st.builds(
        Event,
        st.sampled_from(["Unheard", "Other", "\ud800", ""]),
        st.integers() | st.text() | st.sets(st.uuids(), max_size=3) | st.lists(st.dates()),
        METADATA | st.integers() | st.just({}),
        st.none() | st.uuids(),
        st.lists(st.text(), max_size=3),
    ),
)


@settings(deadline=None, print_blob=True)
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_every_accepted_event_is_read_as_it_was(events: list[Event]) -> None:
    codec = TypedCodec(points())
    batch = Batch(codec)
    try:
        batch.append("s", events)
    except headwater.InvalidArgument:
        assert batch.request() == ([], [], [])
        return
    _, _, [[_, _, _, stored]] = batch.request()
    view = event_views(codec)
    for event, (identity, kind, data, metadata, *tags) in zip(events, stored, strict=True):
        read = view([1, "s", 1, 1, 0, identity or bytes(16), kind, data, metadata, *tags])
        assert (read.type, read.data, read.metadata) == (event.type, event.data, event.metadata)
        assert read.tags == event.tags
        assert event.id is None or read.id == event.id
