"""Field types: what an argument on the wire may be, and the check of it.

A field is built once, when the vocabulary is defined, and then called for every value:

    KEY = Binary(1, limits.KEY_SIZE_MAX)
    KEY(value, "get: key")     # returns nothing, or raises InvalidArgument with that place

Checks only look; they never convert, so what was decoded is what the engine gets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headwater_protocol.errors import InvalidArgument, TooLarge


class Field(Protocol):
    """Something that an argument may be."""

    def __call__(self, value: Any, place: str) -> None:
        """Raise InvalidArgument or TooLarge, naming *place*, unless *value* is allowed."""

    def describe(self) -> str:
        """The field in words, as docs/protocol.md gives it."""


def _wrong(value: Any, place: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"{place}: {wanted} is wanted, not {type(value).__name__} {value!r:.60}")


@dataclass(frozen=True, slots=True)
class Binary:
    """A msgpack bin of a bounded size in bytes."""

    size_min: int
    size_max: int

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not bytes:
            raise _wrong(value, place, self.describe())
        if not self.size_min <= len(value) <= self.size_max:
            raise TooLarge(
                f"{place}: {len(value)} bytes; allowed are {self.size_min} to {self.size_max}"
            )

    def describe(self) -> str:
        if self.size_min == self.size_max:
            return f"bin of {self.size_min} bytes"
        return f"bin of {self.size_min} to {self.size_max} bytes"


@dataclass(frozen=True, slots=True)
class Text:
    """A msgpack str of a bounded size in UTF-8 bytes, without U+0000."""

    size_min: int
    size_max: int

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not str:
            raise _wrong(value, place, self.describe())
        # A character is one to four bytes: most names are settled without encoding them.
        if not (self.size_min <= len(value) and len(value) * 4 <= self.size_max):
            size = len(value.encode())
            if not self.size_min <= size <= self.size_max:
                raise TooLarge(
                    f"{place}: {size} bytes; allowed are {self.size_min} to {self.size_max}"
                )
        if "\0" in value:
            raise InvalidArgument(f"{place}: {value!r:.60} holds U+0000")

    def describe(self) -> str:
        return f"str of {self.size_min} to {self.size_max} UTF-8 bytes"


@dataclass(frozen=True, slots=True)
class Integer:
    """A msgpack int within bounds. A bool is not an int."""

    minimum: int
    maximum: int

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not int:
            raise _wrong(value, place, self.describe())
        if not self.minimum <= value <= self.maximum:
            raise InvalidArgument(
                f"{place}: {value}; allowed are {self.minimum} to {self.maximum}"
            )

    def describe(self) -> str:
        return f"int of {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Number:
    """A msgpack int or float; never NaN, which has no order."""

    def __call__(self, value: Any, place: str) -> None:
        if type(value) not in (int, float) or value != value:
            raise _wrong(value, place, self.describe())

    def describe(self) -> str:
        return "int or float, not NaN"


@dataclass(frozen=True, slots=True)
class Boolean:
    """A msgpack bool."""

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not bool:
            raise _wrong(value, place, self.describe())

    def describe(self) -> str:
        return "bool"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not str or value not in self.words:
            raise _wrong(value, place, self.describe())

    def describe(self) -> str:
        return " or ".join(f'"{word}"' for word in self.words)


@dataclass(frozen=True, slots=True)
class Nullable:
    """Another field, or nil."""

    inner: Field

    def __call__(self, value: Any, place: str) -> None:
        if value is not None:
            self.inner(value, place)

    def describe(self) -> str:
        return f"{self.inner.describe()}, or nil"


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of a bounded count, every item of one field."""

    item: Field
    count_max: int
    count_min: int = 0

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not list:
            raise _wrong(value, place, self.describe())
        if not self.count_min <= len(value) <= self.count_max:
            raise TooLarge(
                f"{place}: {len(value)} items; allowed are {self.count_min} to {self.count_max}"
            )
        item = self.item
        for index, member in enumerate(value):
            item(member, f"{place}[{index}]")

    def describe(self) -> str:
        return f"array of {self.count_min} to {self.count_max}: {self.item.describe()}"


@dataclass(frozen=True, slots=True)
class Argument:
    """A named place in a record. Trailing arguments that have a default may be left out."""

    name: str
    field: Field
    required: bool = True
    default: Any = None
    why: str = ""


class Record:
    """An array with a named place for each member; trailing ones may have defaults."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self.arguments = tuple(arguments)
        self._required = sum(1 for argument in arguments if argument.required)
        self._checks: list[tuple[Callable[[Any, str], None], str]] = [
            (argument.field, argument.name) for argument in arguments
        ]
        self._defaults = [argument.default for argument in arguments]
        optional_from = next(
            (i for i, argument in enumerate(arguments) if not argument.required), len(arguments)
        )
        assert all(not a.required for a in arguments[optional_from:]), "defaults must trail"

    def complete(self, values: list[Any], place: str) -> list[Any]:
        """Check *values* and return them with the defaults of those left out."""
        if not self._required <= len(values) <= len(self._checks):
            raise InvalidArgument(
                f"{place}: {len(values)} arguments; wanted are {self.describe()}"
            )
        for value, (check, name) in zip(values, self._checks, strict=False):
            check(value, f"{place}: {name}")
        if len(values) < len(self._defaults):
            return values + self._defaults[len(values) :]
        return values

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not list:
            raise _wrong(value, place, "an array " + self.describe())
        if len(value) != len(self._checks):
            # Members inside a message are looked up by place, so none may be left out.
            raise InvalidArgument(f"{place}: {len(value)} members; wanted are {self.describe()}")
        for member, (check, name) in zip(value, self._checks, strict=True):
            check(member, f"{place}: {name}")

    def describe(self) -> str:
        return "[" + ", ".join(argument.name for argument in self.arguments) + "]"


@dataclass(frozen=True)
class Tagged:
    """An array whose first member is a word that says what the others are."""

    variants: Mapping[str, Record]
    words: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", ", ".join(sorted(self.variants)))

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not list or not value:
            raise _wrong(value, place, self.describe())
        variant = self.variants.get(value[0]) if type(value[0]) is str else None
        if variant is None:
            raise InvalidArgument(f"{place}: {value[0]!r:.60} is none of {self.words}")
        variant(value[1:], f"{place}: {value[0]}")

    def describe(self) -> str:
        return f"array that starts with one of {self.words}"


@dataclass(frozen=True)
class MapOf:
    """A map with known names, each of which may be left out."""

    members: Mapping[str, Field]

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not dict:
            raise _wrong(value, place, self.describe())
        for name, member in value.items():
            check = self.members.get(name) if type(name) is str else None
            if check is None:
                raise InvalidArgument(
                    f"{place}: {name!r:.60} is none of {', '.join(sorted(self.members))}"
                )
            check(member, f"{place}: {name}")

    def describe(self) -> str:
        return "map with any of " + ", ".join(sorted(self.members))
