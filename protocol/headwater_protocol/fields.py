"""Fields: the types of arguments on the wire, and their validation.

A field is created once, when the operations are defined, and validates every value:

    KEY = Binary(1, limits.KEY_SIZE_MAX)
    KEY.check(value)           # returns nothing, or raises InvalidArgument or TooLarge
    KEY(value, "get: key")     # the same, and the message begins with that place

Nearly all values are valid, so validation has three steps:

    fast validator      accepts nearly all valid requests (headwater_protocol.fast_validators)
    check               the full check, which does not track the place in the request
    __call__            only if check refused: checks again, to name the place in the message

Fields never convert values, so the engine receives exactly what was decoded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooLarge, shown
from headwater_protocol.fast_validators import (
    Anything,
    Arguments,
    Bool,
    Bytes,
    ByWord,
    Each,
    FastValidator,
    Int,
    Members,
    NoMembers,
    OneOf,
    OrNone,
    Str,
    fresh,
)


class Field(Protocol):
    """The type of an argument."""

    def check(self, value: Any) -> None:
        """Raise InvalidArgument or TooLarge unless *value* is valid."""

    def __call__(self, value: Any, place: str) -> None:
        """Like check, but the error's message begins with *place*."""

    def fast_validator(self) -> FastValidator:
        """A validator that accepts only what `check` allows."""

    def describe(self) -> str:
        """The field in words, as in docs/protocol.md."""


def _wrong(value: Any, expected: str) -> InvalidArgument:
    return InvalidArgument(f"expected {expected}; got {type(value).__name__} {shown(value)}")


def _out_of_bounds(count: int, unit: str, minimum: int, maximum: int) -> HeadwaterError:
    # A value below its bounds, such as an empty key, is not too large.
    wrong = TooLarge if count > maximum else InvalidArgument
    return wrong(f"{count} {unit}; allowed are {minimum} to {maximum}")


class _Scalar:
    """A field without members, so the place of an error is the place of the field."""

    __slots__ = ()

    def check(self, value: Any) -> None:
        raise NotImplementedError

    def __call__(self, value: Any, place: str) -> None:
        try:
            self.check(value)
        except HeadwaterError as error:
            raise type(error)(f"{place}: {error.message}") from None


@dataclass(frozen=True, slots=True)
class Binary(_Scalar):
    """A msgpack bin of a bounded size in bytes."""

    size_min: int
    size_max: int

    def check(self, value: Any) -> None:
        if type(value) is not bytes:
            raise _wrong(value, self.describe())
        if not self.size_min <= len(value) <= self.size_max:
            raise _out_of_bounds(len(value), "bytes", self.size_min, self.size_max)

    def fast_validator(self) -> FastValidator:
        return Bytes(self.size_min, self.size_max)

    def describe(self) -> str:
        if self.size_min == self.size_max:
            return f"bin of {self.size_min} bytes"
        return f"bin of {self.size_min} to {self.size_max} bytes"


@dataclass(frozen=True, slots=True)
class Text(_Scalar):
    """A msgpack str of a bounded size in UTF-8 bytes, without U+0000."""

    size_min: int
    size_max: int

    def check(self, value: Any) -> None:
        if type(value) is not str:
            raise _wrong(value, self.describe())
        size = len(value)
        if not value.isascii():
            try:
                size = len(value.encode())
            except UnicodeEncodeError as error:
                raise InvalidArgument(f"{shown(value)} contains a lone surrogate") from error
        if not self.size_min <= size <= self.size_max:
            raise _out_of_bounds(size, "bytes", self.size_min, self.size_max)
        if "\0" in value:
            raise InvalidArgument(f"{shown(value)} contains U+0000")

    def fast_validator(self) -> FastValidator:
        return Str(self.size_min, self.size_max)

    def describe(self) -> str:
        return f"str of {self.size_min} to {self.size_max} UTF-8 bytes"


@dataclass(frozen=True, slots=True)
class Integer(_Scalar):
    """A msgpack int within bounds. A bool is not an int."""

    minimum: int
    maximum: int

    def check(self, value: Any) -> None:
        if type(value) is not int:
            raise _wrong(value, self.describe())
        if not self.minimum <= value <= self.maximum:
            raise InvalidArgument(f"{value}; allowed are {self.minimum} to {self.maximum}")

    def fast_validator(self) -> FastValidator:
        return Int(self.minimum, self.maximum)

    def describe(self) -> str:
        return f"int of {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Number(_Scalar):
    """A msgpack int or float. Not NaN, which cannot be ordered."""

    def check(self, value: Any) -> None:
        if type(value) is int:
            if not -(2**63) <= value < 2**64:
                raise InvalidArgument(f"{shown(value)}; allowed are {-(2**63)} to {2**64 - 1}")
        elif type(value) is not float or value != value:
            raise _wrong(value, self.describe())

    def fast_validator(self) -> FastValidator:
        return Int(-(2**63), 2**64 - 1)

    def describe(self) -> str:
        return "int or float, not NaN"


@dataclass(frozen=True, slots=True)
class Boolean(_Scalar):
    """A msgpack bool."""

    def check(self, value: Any) -> None:
        if type(value) is not bool:
            raise _wrong(value, self.describe())

    def fast_validator(self) -> FastValidator:
        return Bool()

    def describe(self) -> str:
        return "bool"


@dataclass(frozen=True, slots=True)
class Choice(_Scalar):
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: Any) -> None:
        if type(value) is not str or value not in self.words:
            raise _wrong(value, self.describe())

    def fast_validator(self) -> FastValidator:
        return OneOf(self.words)

    def describe(self) -> str:
        return " or ".join(f'"{word}"' for word in self.words)


@dataclass(frozen=True, slots=True)
class Nullable:
    """Another field, or nil."""

    inner: Field

    def check(self, value: Any) -> None:
        if value is not None:
            self.inner.check(value)

    def __call__(self, value: Any, place: str) -> None:
        if value is not None:
            self.inner(value, place)

    def fast_validator(self) -> FastValidator:
        return OrNone(self.inner.fast_validator())

    def describe(self) -> str:
        return f"{self.inner.describe()}, or nil"


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of bounded length, whose items all have one type; *unique* forbids duplicates."""

    item: Field
    count_max: int
    count_min: int = 0
    unique: bool = False

    def check(self, value: Any) -> None:
        self._check_count(value)
        check = self.item.check
        for member in value:
            check(member)
        self._check_unique(value)

    def _check_unique(self, value: list[Any]) -> None:
        if self.unique and len(set(value)) < len(value):
            twice = next(member for member in value if value.count(member) > 1)
            raise InvalidArgument(f"{shown(twice)} occurs more than once")

    def _check_count(self, value: Any) -> None:
        if type(value) is not list:
            raise _wrong(value, self.describe())
        if not self.count_min <= len(value) <= self.count_max:
            raise _out_of_bounds(len(value), "items", self.count_min, self.count_max)

    def __call__(self, value: Any, place: str) -> None:
        try:
            self._check_count(value)
        except HeadwaterError as error:
            raise type(error)(f"{place}: {error.message}") from None
        for index, member in enumerate(value):
            self.item(member, f"{place}[{index}]")
        try:
            self._check_unique(value)
        except HeadwaterError as error:
            raise type(error)(f"{place}: {error.message}") from None

    def fast_validator(self) -> FastValidator:
        return Each(self.item.fast_validator(), self.count_min, self.count_max)

    def describe(self) -> str:
        unique = " without duplicates" if self.unique else ""
        return f"array of {self.count_min} to {self.count_max}{unique}: {self.item.describe()}"


@dataclass(frozen=True, slots=True)
class Argument:
    """A named member of a record. Trailing arguments with a default may be left out."""

    name: str
    field: Field
    required: bool = True
    default: Any = None
    why: str = ""


def _check_each(values: Sequence[Any], checks: Sequence[Callable[[Any], None]]) -> None:
    """Call the check of each value. There may be fewer values than checks."""
    for value, check in zip(values, checks, strict=False):
        check(value)


class Record:
    """An array of named members. Trailing ones may have defaults.

    In the arguments of a request, the defaults of missing members are added. In a nested record no
    member may be missing, because its users index it by place. The exception is a record that
    *may_be_short*: its users supply the defaults.

    Attributes:
        inside_min: smallest number of members in a nested record.
        members: the fast validator of each member.
        fast: validates arguments fast, and adds their defaults.
    """

    __slots__ = (
        "_checks",
        "_count",
        "_count_min",
        "_defaults",
        "arguments",
        "fast",
        "inside_min",
        "members",
    )

    def __init__(self, arguments: Sequence[Argument], *, may_be_short: bool = False) -> None:
        self.arguments = tuple(arguments)
        self._checks = tuple(argument.field.check for argument in arguments)
        self._count = len(self.arguments)
        self._count_min = sum(1 for argument in arguments if argument.required)
        self.inside_min = self._count_min if may_be_short else self._count
        # The defaults of missing arguments, by the number of given ones.
        self._defaults = [
            [argument.default for argument in self.arguments[given:]]
            for given in range(self._count + 1)
        ]
        self.members = [argument.field.fast_validator() for argument in arguments]
        self.fast = Arguments(Members(self.members, self._count_min), self._defaults)
        assert all(not a.required for a in arguments[self._count_min :]), "defaults must trail"
        assert all(not a.default for a in arguments if type(a.default) in (list, dict))

    def complete(self, values: list[Any], place: str) -> list[Any]:
        """Check *values* and return them with the defaults of missing ones.

        Raises:
            InvalidArgument, TooLarge: a value is invalid; the message begins with *place* and the
                argument's name.
        """
        count = len(values)
        if not self._count_min <= count <= self._count:
            raise InvalidArgument(f"{place}: {count} arguments; expected {self.describe()}")
        completed = self.fast.completed(values)
        if completed is not None:
            return completed
        self._check_fully(values, place)
        return values + [fresh(member) for member in self._defaults[count]]

    def _check_fully(self, values: Sequence[Any], place: str) -> None:
        try:
            _check_each(values, self._checks)
        except HeadwaterError:
            self._explain(values, place)
            raise

    def _explain(self, values: Sequence[Any], place: str) -> None:
        """Check *values* again, and raise the error with its place."""
        for value, argument in zip(values, self.arguments, strict=False):
            argument.field(value, f"{place}: {argument.name}")

    def check(self, value: Any) -> None:
        self._check_count(value)
        _check_each(value, self._checks)

    def _check_count(self, value: Any) -> None:
        if type(value) is not list:
            raise _wrong(value, "an array " + self.describe())
        if not self.inside_min <= len(value) <= self._count:
            raise InvalidArgument(f"{len(value)} members; expected {self.describe()}")

    def __call__(self, value: Any, place: str) -> None:
        try:
            self._check_count(value)
        except HeadwaterError as error:
            raise type(error)(f"{place}: {error.message}") from None
        self._explain(value, place)

    def fast_validator(self) -> FastValidator:
        return Members(self.members, self.inside_min)

    def describe(self) -> str:
        return "[" + ", ".join(argument.name for argument in self.arguments) + "]"


@dataclass(frozen=True)
class Tagged:
    """An array whose first member is a word that selects the record of the others."""

    variants: Mapping[str, Record]
    words: str = field(init=False)
    _checks: Mapping[str, tuple[Callable[[Any], None], ...]] = field(init=False, repr=False)
    _least: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", ", ".join(sorted(self.variants)))
        object.__setattr__(
            self,
            "_checks",
            {
                word: (_accept, *(argument.field.check for argument in variant.arguments))
                for word, variant in self.variants.items()
            },
        )
        object.__setattr__(
            self, "_least", {word: 1 + each.inside_min for word, each in self.variants.items()}
        )

    def check(self, value: Any) -> None:
        # Checks the array as it is, with the word as first member: slicing would copy it.
        if type(value) is list and value and type(value[0]) is str:
            checks = self._checks.get(value[0])
            if checks is not None and self._least[value[0]] <= len(value) <= len(checks):
                _check_each(value, checks)
                return
        self(value, "")

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not list or not value:
            error = _wrong(value, self.describe())
            raise InvalidArgument(f"{place}: {error.message}")
        variant = self.variants.get(value[0]) if type(value[0]) is str else None
        if variant is None:
            error = _wrong(value[0], f"one of {self.words}")
            raise InvalidArgument(f"{place}: {error.message}")
        variant(value[1:], f"{place}: {value[0]}")

    def fast_validator(self) -> FastValidator:
        return ByWord(
            {
                word: Members((Anything(), *variant.members), 1 + variant.inside_min)
                for word, variant in self.variants.items()
            }
        )

    def describe(self) -> str:
        return f"array that starts with one of {self.words}"


def _accept(value: Any) -> None:
    """Check nothing: the word of a Tagged has been checked already."""


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map with known names and at least *count_min* members."""

    members: Mapping[str, Field]
    count_min: int = 0

    def check(self, value: Any) -> None:
        self(value, "")

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not dict:
            error = _wrong(value, self.describe())
            raise InvalidArgument(f"{place}: {error.message}")
        if len(value) < self.count_min:
            raise InvalidArgument(f"{place}: {len(value)} members; expected {self.describe()}")
        for name, member in value.items():
            check = self.members.get(name) if type(name) is str else None
            if check is None:
                raise InvalidArgument(
                    f"{place}: {shown(name)} is not one of {', '.join(sorted(self.members))}"
                )
            check(member, f"{place}: {name}")

    def fast_validator(self) -> FastValidator:
        return FastValidator() if self.count_min else NoMembers()

    def describe(self) -> str:
        least = f"at least {self.count_min}" if self.count_min else "any"
        return f"map with {least} of " + ", ".join(sorted(self.members))
