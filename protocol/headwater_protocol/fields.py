"""Field types: what an argument on the wire may be, and the check of it.

A field is built once, when the vocabulary is defined, and then called for every value:

    KEY = Binary(1, limits.KEY_SIZE_MAX)
    KEY.check(value)           # returns nothing, or raises InvalidArgument or TooLarge
    KEY(value, "get: key")     # the same, and the message begins with that place

Nearly all values are right, so a request is first put to tests that only say so
(headwater_protocol.fitting). What that does not accept is checked, by a `check` that knows no
places; and only when that has refused is the value gone through once more, by name, to say
where the fault is.

Checks only look; they never convert, so what was decoded is what the engine gets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooLarge, shown
from headwater_protocol.fitting import (
    Anything,
    Arguments,
    Bool,
    Bytes,
    ByWord,
    Each,
    Fitting,
    Int,
    Members,
    NoMembers,
    OneOf,
    OrNone,
    Str,
    fresh,
)


class Field(Protocol):
    """Something that an argument may be."""

    def check(self, value: Any) -> None:
        """Raise InvalidArgument or TooLarge unless *value* is allowed."""

    def __call__(self, value: Any, place: str) -> None:
        """As check; the error's message begins with *place*."""

    def fitting(self) -> Fitting:
        """A test that accepts only what `check` allows."""

    def describe(self) -> str:
        """The field in words, as docs/protocol.md gives it."""


def _wrong(value: Any, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"{wanted} is wanted, not {type(value).__name__} {shown(value)}")


def _out_of_bounds(count: int, unit: str, minimum: int, maximum: int) -> HeadwaterError:
    # Only what is above its bound is too large: a key of no bytes is not.
    wrong = TooLarge if count > maximum else InvalidArgument
    return wrong(f"{count} {unit}; allowed are {minimum} to {maximum}")


class _Scalar:
    """A field without members: its place is the one that it is given."""

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

    def fitting(self) -> Fitting:
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
        # A character is one to four bytes: most names are settled without encoding them.
        if not (self.size_min <= len(value) and len(value) * 4 <= self.size_max):
            try:
                size = len(value.encode())
            except UnicodeEncodeError as error:
                raise InvalidArgument(f"{shown(value)} holds a lone surrogate") from error
            if not self.size_min <= size <= self.size_max:
                raise _out_of_bounds(size, "bytes", self.size_min, self.size_max)
        if "\0" in value:
            raise InvalidArgument(f"{shown(value)} holds U+0000")

    def fitting(self) -> Fitting:
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

    def fitting(self) -> Fitting:
        return Int(self.minimum, self.maximum)

    def describe(self) -> str:
        return f"int of {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Number(_Scalar):
    """A msgpack int or float; never NaN, which has no order."""

    def check(self, value: Any) -> None:
        if type(value) is int:
            if not -(2**63) <= value < 2**64:
                raise InvalidArgument(f"{shown(value)}; allowed are {-(2**63)} to {2**64 - 1}")
        elif type(value) is not float or value != value:
            raise _wrong(value, self.describe())

    def fitting(self) -> Fitting:
        return Int(-(2**63), 2**64 - 1)

    def describe(self) -> str:
        return "int or float, not NaN"


@dataclass(frozen=True, slots=True)
class Boolean(_Scalar):
    """A msgpack bool."""

    def check(self, value: Any) -> None:
        if type(value) is not bool:
            raise _wrong(value, self.describe())

    def fitting(self) -> Fitting:
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

    def fitting(self) -> Fitting:
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

    def fitting(self) -> Fitting:
        return OrNone(self.inner.fitting())

    def describe(self) -> str:
        return f"{self.inner.describe()}, or nil"


@dataclass(frozen=True, slots=True)
class ListOf:
    """An array of a bounded count, every item of one field; no two alike if they are *unique*."""

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
            raise InvalidArgument(f"{shown(twice)} stands in it more than once")

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

    def fitting(self) -> Fitting:
        return Each(self.item.fitting(), self.count_min, self.count_max)

    def describe(self) -> str:
        unique = ", no two alike" if self.unique else ""
        return f"array of {self.count_min} to {self.count_max}{unique}: {self.item.describe()}"


@dataclass(frozen=True, slots=True)
class Argument:
    """A named place in a record. Trailing arguments that have a default may be left out."""

    name: str
    field: Field
    required: bool = True
    default: Any = None
    why: str = ""


def _check_each(values: Sequence[Any], checks: Sequence[Callable[[Any], None]]) -> None:
    """Check each of *values*, of which there are no more than *checks*."""
    for value, check in zip(values, checks, strict=False):
        check(value)


class Record:
    """An array with a named place for each member; trailing ones may have defaults.

    Inside a message members are looked up by place, so there none may be left out, unless the
    record *may_be_short*: then whoever uses it sees to those that have a default.

    Attributes:
        inside_min: members that it has at least inside a message.
        members: the test of each.
        fast: completes arguments that are surely right.
    """

    __slots__ = (
        "_checks",
        "_count",
        "_count_min",
        "_tails",
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
        # By how many were given: the defaults of the rest.
        self._tails = [
            [argument.default for argument in self.arguments[given:]]
            for given in range(self._count + 1)
        ]
        self.members = [argument.field.fitting() for argument in arguments]
        self.fast = Arguments(Members(self.members, self._count_min), self._tails)
        assert all(not a.required for a in arguments[self._count_min :]), "defaults must trail"
        assert all(not a.default for a in arguments if type(a.default) in (list, dict))

    def complete(self, values: list[Any], place: str) -> list[Any]:
        """Check *values* and return them with the defaults of those left out.

        Raises:
            InvalidArgument, TooLarge: a value is not allowed; the message begins with *place*
                and the argument's name.
        """
        count = len(values)
        if not self._count_min <= count <= self._count:
            raise InvalidArgument(f"{place}: {count} arguments; wanted are {self.describe()}")
        completed = self.fast.completed(values)
        if completed is not None:
            return completed
        self._check_closely(values, place)
        return values + [fresh(member) for member in self._tails[count]]

    def _check_closely(self, values: Sequence[Any], place: str) -> None:
        try:
            _check_each(values, self._checks)
        except HeadwaterError:
            self._explain(values, place)
            raise

    def _explain(self, values: Sequence[Any], place: str) -> None:
        """Raise what is wrong with *values*, with its place."""
        for value, argument in zip(values, self.arguments, strict=False):
            argument.field(value, f"{place}: {argument.name}")

    def check(self, value: Any) -> None:
        self._check_count(value)
        _check_each(value, self._checks)

    def _check_count(self, value: Any) -> None:
        if type(value) is not list:
            raise _wrong(value, "an array " + self.describe())
        if not self.inside_min <= len(value) <= self._count:
            raise InvalidArgument(f"{len(value)} members; wanted are {self.describe()}")

    def __call__(self, value: Any, place: str) -> None:
        try:
            self._check_count(value)
        except HeadwaterError as error:
            raise type(error)(f"{place}: {error.message}") from None
        self._explain(value, place)

    def fitting(self) -> Fitting:
        return Members(self.members, self.inside_min)

    def describe(self) -> str:
        return "[" + ", ".join(argument.name for argument in self.arguments) + "]"


@dataclass(frozen=True)
class Tagged:
    """An array whose first member is a word that says what the others are."""

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
        # The word stands in the array with its members, which are not cut out to be checked.
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
            raise InvalidArgument(f"{place}: {shown(value[0])} is none of {self.words}")
        variant(value[1:], f"{place}: {value[0]}")

    def fitting(self) -> Fitting:
        return ByWord(
            {
                word: Members((Anything(), *variant.members), 1 + variant.inside_min)
                for word, variant in self.variants.items()
            }
        )

    def describe(self) -> str:
        return f"array that starts with one of {self.words}"


def _accept(value: Any) -> None:
    """The check of what was looked at already."""


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map with known names, each of which may be left out, but for *count_min* of them."""

    members: Mapping[str, Field]
    count_min: int = 0

    def check(self, value: Any) -> None:
        self(value, "")

    def __call__(self, value: Any, place: str) -> None:
        if type(value) is not dict:
            error = _wrong(value, self.describe())
            raise InvalidArgument(f"{place}: {error.message}")
        if len(value) < self.count_min:
            raise InvalidArgument(f"{place}: {len(value)} members; wanted is a {self.describe()}")
        for name, member in value.items():
            check = self.members.get(name) if type(name) is str else None
            if check is None:
                raise InvalidArgument(
                    f"{place}: {shown(name)} is none of {', '.join(sorted(self.members))}"
                )
            check(member, f"{place}: {name}")

    def fitting(self) -> Fitting:
        return Fitting() if self.count_min else NoMembers()

    def describe(self) -> str:
        least = f"at least {self.count_min}" if self.count_min else "any"
        return f"map with {least} of " + ", ".join(sorted(self.members))
