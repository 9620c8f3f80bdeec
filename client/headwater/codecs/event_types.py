"""Event types: classes for the data of events, and upcasters from older schemas.

    types = EventTypes()
    types.register("Deposited", Deposited, schema=3)
    types.upcaster("Deposited", 1, lambda data: {**data, "currency": "EUR"})      # 1 -> 2
    types.upcaster("Deposited", 2, lambda data: ...)                             # 2 -> 3

    db = headwater.connect(url, codec=TypedCodec(types))

        write   Deposited(...) --dump--> {...}, metadata {"$schema": 3} --codec--> bytes
        read    bytes --codec--> {...} of schema 1 --1->2--> --2->3--> --load--> Deposited(...)

The schema is stored in the metadata of the event, under "$schema". Schema 1 is not stored, so
events that were written without a registry have schema 1. Stored events never change. An event
whose type is not registered is read as plain data. The server knows nothing of schemas.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final
from uuid import UUID

from headwater.codecs.codec import Codec, MsgpackCodec
from headwater.codecs.type_mapping import FunctionMapping, TypeMapping, mapping_of
from headwater.errors import InvalidArgument, Undecodable
from headwater.records import Event, RecordedEvent

SCHEMA_KEY: Final = "$schema"
"""The key of the schema in the metadata of an event."""

Upcaster = Callable[[Any], Any]
"""Turns data of one schema into data of the next."""


@dataclasses.dataclass(slots=True)
class _Registered:
    """A registered type of events."""

    schema: int = 1
    registered: bool = False
    kind: type | None = None
    mapping: TypeMapping | None = None
    upcasters: dict[int, Upcaster] = dataclasses.field(default_factory=dict)


class EventTypes:
    """A registry of event types: classes, schemas and upcasters."""

    def __init__(self) -> None:
        self._types: dict[str, _Registered] = {}
        self._names: dict[type, str] = {}

    def register(
        self,
        name: str,
        kind: type | None = None,
        *,
        schema: int = 1,
        dump: Callable[[Any], Any] | None = None,
        load: Callable[[Any], Any] | None = None,
    ) -> None:
        """Register a type of events.

        Args:
            name: the type of the events.
            kind: a dataclass, msgspec.Struct or pydantic model. None: plain data.
            schema: the version in which data is written now, 1 or more.
            dump, load: functions to plain data and back, for a class of any other kind.

        Raises:
            InvalidArgument: the type or the class is already registered, or there is no mapping
                for the class.
        """
        if schema < 1:
            raise InvalidArgument(f"register {name!r}: schema {schema}; the minimum is 1")
        known = self._types.setdefault(name, _Registered())
        if known.registered:
            raise InvalidArgument(f"register {name!r}: it is already registered")
        if any(earlier >= schema for earlier in known.upcasters):
            raise InvalidArgument(
                f"register {name!r}: schema {schema}, but there is an upcaster from schema "
                f"{max(known.upcasters)}"
            )
        if kind is not None and kind in self._names:
            raise InvalidArgument(
                f"register {name!r}: {kind.__qualname__} is already the class of "
                f"{self._names[kind]!r}"
            )
        if (dump is None) != (load is None):
            raise InvalidArgument(f"register {name!r}: give both dump= and load=, or neither")
        known.schema = schema
        known.registered = True
        known.kind = kind
        if dump is not None and load is not None:
            known.mapping = FunctionMapping(dump, load)
        elif kind is not None:
            known.mapping = mapping_of(kind)
        if kind is not None:
            self._names[kind] = name

    def upcaster(self, name: str, schema: int, function: Upcaster) -> None:
        """Register a function that turns data of *schema* into data of the next schema.

        It is called whenever such data is read.

        Raises:
            InvalidArgument: there already is an upcaster from this schema, or the type is
                registered without a later schema.
        """
        known = self._types.setdefault(name, _Registered())
        place = f"upcaster of {name!r} from schema {schema}"
        if schema < 1:
            raise InvalidArgument(f"{place}: the first schema is 1")
        if schema in known.upcasters:
            raise InvalidArgument(f"{place}: there already is one")
        if known.registered and schema >= known.schema:
            raise InvalidArgument(f"{place}: the type is registered with schema {known.schema}")
        known.upcasters[schema] = function
        known.schema = max(known.schema, schema + 1)

    def event(
        self,
        value: Any,
        *,
        metadata: Any = None,
        id: UUID | None = None,  # noqa: A002 - as the Event's
        tags: Sequence[str] = (),
    ) -> Event:
        """Make an event of an object. Its class gives the type of the event.

        Raises:
            InvalidArgument: the class is not registered.
        """
        name = self._names.get(type(value))
        if name is None:
            raise InvalidArgument(f"{type(value).__qualname__} is not registered as an event type")
        return Event(name, value, metadata, id, tags)

    def to_stored(self, event: Event) -> Event:
        """Replace the data by plain data, and add the schema to the metadata.

        Raises:
            InvalidArgument: the data does not fit the type, or the metadata is not a map.
        """
        known = self._types.get(event.type)
        if known is None:
            return event
        data = event.data
        if known.mapping is not None:
            try:
                if known.kind is not None and not isinstance(data, known.kind):
                    # Plain data is allowed, but it must load as the class when it is read.
                    data = known.mapping.load(data)
                data = known.mapping.dump(data)
            except Exception as error:
                raise InvalidArgument(
                    f"{event.type}: the data does not fit: {type(error).__name__}: {error}"
                ) from error
        return Event(event.type, data, _marked(event, known.schema), event.id, event.tags)

    def has_class(self, name: str) -> bool:
        """Whether the data of this type of events becomes an object when it is read."""
        known = self._types.get(name)
        return known is not None and known.mapping is not None

    def check_readable(self, name: str, data: Any) -> None:
        """Refuse data of a type of events that could be stored, and not be read again.

        Args:
            name: the type.
            data: plain data, as it will be decoded.

        Raises:
            InvalidArgument: the class does not take it. Python lets one make objects with any
                values, and msgspec and pydantic too; it is when loading that these are checked.
        """
        mapping = self._types[name].mapping
        assert mapping is not None
        try:
            mapping.load(data)
        except Exception as error:
            raise InvalidArgument(
                f"{name}: the data could not be read again: {type(error).__name__}: {error}"
            ) from error

    def from_stored(self, event: RecordedEvent) -> RecordedEvent:
        """Bring the data to the newest schema, and make an object of its class.

        Raises:
            Undecodable: an upcaster fails or is missing, or the data does not fit the class.
        """
        known = self._types.get(event.type)
        if known is None:
            return event
        schema, metadata = _unmarked(event.metadata)
        if event.erased:
            return event.with_parts(None, metadata)
        data = event.data
        while schema < known.schema:
            upcast = known.upcasters.get(schema)
            if upcast is None:
                raise Undecodable(f"{_told(event, schema)}: no upcaster from schema {schema}")
            try:
                data = upcast(data)
            except Exception as error:
                raise Undecodable(
                    f"{_told(event, schema)}: the upcaster to schema {schema + 1} failed: "
                    f"{type(error).__name__}: {error}"
                ) from error
            schema += 1
        if schema > known.schema:
            raise Undecodable(
                f"{_told(event, schema)}: the newest schema known here is {known.schema}"
            )
        if known.mapping is not None:
            try:
                data = known.mapping.load(data)
            except Exception as error:
                raise Undecodable(
                    f"{_told(event, schema)}: the data does not fit: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return event.with_parts(data, metadata)


class TypedCodec:
    """A codec that turns the data of events into objects of registered classes.

    Args:
        types: the classes and upcasters.
        codec: for the plain data, and for values and states. The default is MsgpackCodec, with
            enums encoded as their values.
    """

    def __init__(self, types: EventTypes, codec: Codec | None = None) -> None:
        inner = MsgpackCodec(default=_enum_value) if codec is None else codec
        self.types = types
        self.encode = inner.encode
        self.decode = inner.decode
        self.to_stored = types.to_stored
        self.from_stored = types.from_stored

    def check_stored(self, name: str, data: bytes) -> None:
        """Make sure that the encoded data of an event can be read again.

        Raises:
            InvalidArgument: the class of this type of events does not take it.
        """
        if not self.types.has_class(name):
            return
        try:
            plain = self.decode(data)
        except Exception as error:
            raise InvalidArgument(
                f"{name}: the data could not be decoded again: {type(error).__name__}: {error}"
            ) from error
        self.types.check_readable(name, plain)


def _enum_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"msgpack has no {type(value).__name__}: {value!r:.60}")


def _marked(event: Event, schema: int) -> Any:
    metadata = event.metadata
    if isinstance(metadata, Mapping) and SCHEMA_KEY in metadata:
        raise InvalidArgument(f"{event.type}: {SCHEMA_KEY!r} in the metadata is set by the codec")
    if schema == 1:
        return metadata
    if metadata is None:
        return {SCHEMA_KEY: schema}
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(
            f"{event.type}: the metadata must be a map, to carry schema {schema}; got "
            f"{metadata!r:.60}"
        )
    return {**metadata, SCHEMA_KEY: schema}


def _unmarked(metadata: Any) -> tuple[int, Any]:
    """The schema of an event, and its metadata without the schema."""
    if not isinstance(metadata, dict) or type(metadata.get(SCHEMA_KEY)) is not int:
        return 1, metadata
    rest = {key: value for key, value in metadata.items() if key != SCHEMA_KEY}
    return metadata[SCHEMA_KEY], rest or None


def _told(event: RecordedEvent, schema: int) -> str:
    return (
        f"event {event.version} of {event.stream}, at position {event.position}, of type "
        f"{event.type} in schema {schema}"
    )
