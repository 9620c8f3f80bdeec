"""Type mapping: objects of the application's classes as plain data, and back.

    Deposited(amount=Decimal("10"))  --dump-->  {"amount": Decimal("10")}  --codec--> bytes
                                     <--load--

Dataclasses need no library. msgspec structs and pydantic models are converted by their own
libraries, which are imported when the first such class is used. Fields of the data that the class
lacks are ignored, as both libraries do: an older reader can read data with a new field.
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
"""Types that the codec can encode, so msgspec need not turn them into str."""


class TypeMapping(Protocol):
    """Turns objects of one class into plain data that a codec can encode, and back."""

    def dump(self, value: Any) -> Any:
        """The plain data of an object."""

    def load(self, data: Any) -> Any:
        """The object of which `dump` made *data*. Raises any exception if the data does not fit."""


def mapping_of(kind: type) -> TypeMapping:
    """The mapping of a class.

    Raises:
        InvalidArgument: the class is not a dataclass, msgspec.Struct or pydantic model; or it is a
            dataclass, and the type of a field does not tell how to load it.
    """
    if hasattr(kind, "__struct_fields__"):
        return StructMapping(kind)
    if hasattr(kind, "model_validate"):
        return ModelMapping(kind)
    if dataclasses.is_dataclass(kind):
        return DataclassMapping(kind, {})
    raise InvalidArgument(
        f"{kind.__qualname__} is not a dataclass, msgspec.Struct or pydantic model; give dump= and "
        "load= functions"
    )


def has_mapping(kind: type) -> bool:
    """Whether mapping_of supports a class."""
    return (
        hasattr(kind, "__struct_fields__")
        or hasattr(kind, "model_validate")
        or dataclasses.is_dataclass(kind)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class FunctionMapping:
    """Two functions of the application."""

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
        # As Python objects, so that Decimals and times reach the codec as such.
        return value.model_dump(round_trip=True)


class DataclassMapping:
    """A dataclass. Its fields may be dataclasses, enums and containers of them.

    The types of the fields tell how to load the data. The data is not validated against them.
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
            raise TypeError(f"{self._kind.__qualname__}: expected a map, got {data!r:.60}")
        members = {name: data[name] for name in self._names if name in data}
        for name, load in self._loads.items():
            if name in members:
                members[name] = load(members[name])
        return self._kind(**members)


def plain(value: Any) -> Any:
    """Turn all dataclasses and enums inside of *value* into plain data."""
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
    """A function that loads data of the type *hint*. None: the data needs no loading."""
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
            f"{place}: the data does not tell which type of the union it is; use a msgspec.Struct "
            "with tags"
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
