"""Type mapping: objects of an application's classes as plain data, and back.

    Deposited(amount=Decimal("10"))  --dump-->  {"amount": Decimal("10")}  --codec--> bytes
                                     <--load--

Dataclasses need nothing more; msgspec structs and pydantic models are turned by their own
libraries, which are imported when the first of their classes is met. Fields that the data has
and the class lacks are left out, as both libraries do: an older reader survives a field that is
new.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Protocol
from uuid import UUID

from headwater.errors import InvalidArgument

Load = Callable[[Any], Any]

_KEPT: Final = (bytes, datetime, date, UUID, Decimal)
"""What the codec has a form for, so msgspec need not make a str of it."""


class TypeMapping(Protocol):
    """Turns objects of one class into what a codec takes, and back."""

    def dump(self, value: Any) -> Any:
        """Plain data of an object."""

    def load(self, data: Any) -> Any:
        """The object that `dump` made *data* of; any exception if the data does not fit."""


def mapping_of(kind: type) -> TypeMapping:
    """The mapping of a class.

    Raises:
        InvalidArgument: it is no dataclass, msgspec.Struct or pydantic model, or a dataclass
            with a field whose type does not say what to make of the data.
    """
    if hasattr(kind, "__struct_fields__"):
        return StructMapping(kind)
    if hasattr(kind, "model_validate"):
        return ModelMapping(kind)
    if dataclasses.is_dataclass(kind):
        return DataclassMapping(kind, {})
    raise InvalidArgument(
        f"{kind.__qualname__} is no dataclass, msgspec.Struct or pydantic model; give dump= and "
        "load= functions"
    )


def has_mapping(kind: type) -> bool:
    """Whether mapping_of knows what to do with a class."""
    return (
        hasattr(kind, "__struct_fields__")
        or hasattr(kind, "model_validate")
        or dataclasses.is_dataclass(kind)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class FunctionMapping:
    """Two functions of the application's."""

    dump: Callable[[Any], Any]
    load: Load


class StructMapping:
    """A msgspec.Struct; pip install headwater[msgspec]."""

    def __init__(self, kind: type) -> None:
        import msgspec

        self._kind = kind
        self._to_builtins = msgspec.to_builtins
        self._convert = msgspec.convert

    def dump(self, value: Any) -> Any:
        return self._to_builtins(value, builtin_types=_KEPT)

    def load(self, data: Any) -> Any:
        return self._convert(data, self._kind, builtin_types=_KEPT)


class ModelMapping:
    """A pydantic model; pip install headwater[pydantic]."""

    def __init__(self, kind: Any) -> None:
        self.load: Load = kind.model_validate

    def dump(self, value: Any) -> Any:
        # As Python objects: amounts and times keep their types in the codec.
        return value.model_dump(round_trip=True)


class DataclassMapping:
    """A dataclass, with dataclasses, enums and containers of them in it.

    The types of the fields say what to make of the data; they are not checked against it.
    """

    def __init__(self, kind: Any, known: dict[type, "DataclassMapping"]) -> None:
        known[kind] = self
        self._kind = kind
        hints = typing.get_type_hints(kind)
        self._names = tuple(field.name for field in dataclasses.fields(kind) if field.init)
        self._loads: dict[str, Load] = {}
        for name in self._names:
            load = _load_of(hints[name], f"{kind.__qualname__}.{name}", known)
            if load is not None:
                self._loads[name] = load

    def dump(self, value: Any) -> dict[str, Any]:
        return {name: plain(getattr(value, name)) for name in self._names}

    def load(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise TypeError(f"{self._kind.__qualname__} is made of a map, not {data!r:.60}")
        members = {name: data[name] for name in self._names if name in data}
        for name, load in self._loads.items():
            if name in members:
                members[name] = load(members[name])
        return self._kind(**members)


def plain(value: Any) -> Any:
    """*value* with all dataclasses and enums in it as plain data."""
    match value:
        case None | bool() | int() | float() | str() | bytes() if not isinstance(value, Enum):
            return value
        case Enum():
            return value.value
        case dict():
            return {plain(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case set() | frozenset():
            return type(value)(plain(inner) for inner in value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                field.name: plain(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if field.init
            }
        case _:
            return value


def _load_of(hint: Any, place: str, known: dict[type, DataclassMapping]) -> Load | None:
    """How to make what *hint* says; None: the data is it already."""
    hint = getattr(hint, "__supertype__", hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _load_of_union(arguments, place, known)
    if origin in (list, set, frozenset, tuple, dict) or hint is tuple:
        return _load_of_container(origin or tuple, arguments, place, known)
    if isinstance(hint, type):
        if issubclass(hint, Enum):
            return hint
        if dataclasses.is_dataclass(hint):
            return (known.get(hint) or DataclassMapping(hint, known)).load
    return None


def _load_of_union(
    arguments: tuple[Any, ...], place: str, known: dict[type, DataclassMapping]
) -> Load | None:
    loads = [_load_of(argument, place, known) for argument in arguments]
    wanted = [load for load in loads if load is not None]
    if not wanted:
        return None
    if len(wanted) > 1 or set(arguments) - {type(None)} != {
        argument for argument, load in zip(arguments, loads, strict=True) if load is not None
    }:
        raise InvalidArgument(
            f"{place}: the data does not say which of the types in a union it is; a "
            "msgspec.Struct with tags does"
        )
    (load,) = wanted
    return lambda data: None if data is None else load(data)


def _load_of_container(
    origin: Any, arguments: tuple[Any, ...], place: str, known: dict[type, DataclassMapping]
) -> Load | None:
    loads = [_load_of(argument, place, known) for argument in arguments if argument is not ...]
    if origin is tuple:
        if len(loads) == 1 and arguments[-1] is ...:
            of_all = loads[0]
            return tuple if of_all is None else lambda data: tuple(map(of_all, data))
        if not any(loads):
            return tuple
        return lambda data: tuple(
            inner if load is None else load(inner) for load, inner in zip(loads, data, strict=True)
        )
    if origin is dict:
        of_key, of_value = loads if loads else (None, None)
        if of_key is None and of_value is None:
            return None
        return lambda data: {
            key if of_key is None else of_key(key): inner if of_value is None else of_value(inner)
            for key, inner in data.items()
        }
    (of_member,) = loads or [None]
    return None if of_member is None else lambda data: origin(map(of_member, data))
