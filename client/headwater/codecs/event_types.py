"""Event types: classes for the data of events, and upcasters from their older schemas.

    types = EventTypes()
    types.register("Deposited", Deposited, schema=3)
    types.upcaster("Deposited", 1, lambda data: {**data, "currency": "EUR"})      # 1 -> 2
    types.upcaster("Deposited", 2, lambda data: ...)                             # 2 -> 3

    db = headwater.connect(url, codec=TypedCodec(types))

        write   Deposited(...) --dump--> {...}, metadata {"$schema": 3} --codec--> bytes
        read    bytes --codec--> {...} of schema 1 --1->2--> --2->3--> --load--> Deposited(...)

The schema travels in the event's metadata, under "$schema", and is left out if it is 1: events
that were written before there was a registry have schema 1. What is stored never changes. A
type that is not registered is read as plain data. The server knows of none of this.
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
"""Where an event's metadata says the schema of its data."""

Upcaster = Callable[[Any], Any]
"""Data of one schema as data of the next."""


@dataclasses.dataclass(slots=True)
class _Registered:
    """What is known of a type of events."""

    schema: int = 1
    registered: bool = False
    kind: type | None = None
    mapping: TypeMapping | None = None
    upcasters: dict[int, Upcaster] = dataclasses.field(default_factory=dict)


class EventTypes:
    """What an application knows of its events, by their type."""

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
        """Say what the data of events of a type is.

        Args:
            name: the type of the events.
            kind: a dataclass, msgspec.Struct or pydantic model; None: plain data.
            schema: the version of the data as it is written now, 1 or more.
            dump, load: for a class of another sort: to plain data, and from it.

        Raises:
            InvalidArgument: the type or the class is registered already, or the class has no
                mapping that is known.
        """
        if schema < 1:
            raise InvalidArgument(f"register {name!r}: schema {schema}; the first is 1")
        known = self._types.setdefault(name, _Registered())
        if known.registered:
            raise InvalidArgument(f"register {name!r}: it is registered already")
        if any(earlier >= schema for earlier in known.upcasters):
            raise InvalidArgument(
                f"register {name!r}: schema {schema}, but there is an upcaster from schema "
                f"{max(known.upcasters)}"
            )
        if kind is not None and kind in self._names:
            raise InvalidArgument(
                f"register {name!r}: {kind.__qualname__} is that of {self._names[kind]!r} already"
            )
        if (dump is None) != (load is None):
            raise InvalidArgument(f"register {name!r}: give dump= and load= both, or neither")
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
        """Say how data of *schema* becomes data of the schema after it, whenever it is read.

        Raises:
            InvalidArgument: there is one from this schema already, or the type is registered
                with no schema after it.
        """
        known = self._types.setdefault(name, _Registered())
        place = f"upcaster of {name!r} from schema {schema}"
        if schema < 1:
            raise InvalidArgument(f"{place}: the first schema is 1")
        if schema in known.upcasters:
            raise InvalidArgument(f"{place}: there is one already")
        if known.registered and schema >= known.schema:
            raise InvalidArgument(f"{place}: it is registered with schema {known.schema}")
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
        """An event of an object, whose class says its type.

        Raises:
            InvalidArgument: the class is not registered.
        """
        name = self._names.get(type(value))
        if name is None:
            raise InvalidArgument(f"{type(value).__qualname__} is the class of no event type")
        return Event(name, value, metadata, id, tags)

    def to_stored(self, event: Event) -> Event:
        """The event with plain data, and its schema in the metadata.

        Raises:
            InvalidArgument: the data does not fit its type, or the metadata is no map.
        """
        known = self._types.get(event.type)
        if known is None:
            return event
        data = event.data
        if known.mapping is not None:
            try:
                if known.kind is not None and not isinstance(data, known.kind):
                    # Plain data is held against the class, so that it can be read again.
                    data = known.mapping.load(data)
                data = known.mapping.dump(data)
            except Exception as error:
                raise InvalidArgument(
                    f"{event.type}: the data does not fit: {type(error).__name__}: {error}"
                ) from error
        return Event(event.type, data, _marked(event, known.schema), event.id, event.tags)

    def from_stored(self, event: RecordedEvent) -> RecordedEvent:
        """The event with its data as the newest schema has it, of its class.

        Raises:
            Undecodable: an upcaster fails or is missing, or the data does not fit the class.
        """
        known = self._types.get(event.type)
        if known is None:
            return event
        schema, metadata = _unmarked(event.metadata)
        if event.erased:
            return dataclasses.replace(event, metadata=metadata)
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
        return dataclasses.replace(event, data=data, metadata=metadata)


class TypedCodec:
    """A codec that makes objects of the data of events, by their type.

    Args:
        types: the classes and upcasters.
        codec: of the plain data, and of values and states; MsgpackCodec unless given, in which
            an enum is its value.
    """

    def __init__(self, types: EventTypes, codec: Codec | None = None) -> None:
        inner = MsgpackCodec(default=_enum_value) if codec is None else codec
        self.types = types
        self.encode = inner.encode
        self.decode = inner.decode
        self.to_stored = types.to_stored
        self.from_stored = types.from_stored


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
            f"{event.type}: its metadata carries schema {schema}, so it must be a map, not "
            f"{metadata!r:.60}"
        )
    return {**metadata, SCHEMA_KEY: schema}


def _unmarked(metadata: Any) -> tuple[int, Any]:
    """The schema of an event, and its metadata without that."""
    if not isinstance(metadata, dict) or type(metadata.get(SCHEMA_KEY)) is not int:
        return 1, metadata
    rest = {key: value for key, value in metadata.items() if key != SCHEMA_KEY}
    return metadata[SCHEMA_KEY], rest or None


def _told(event: RecordedEvent, schema: int) -> str:
    return (
        f"event {event.version} of {event.stream}, at position {event.position}, of type "
        f"{event.type} in schema {schema}"
    )
