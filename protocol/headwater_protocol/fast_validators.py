"""Fast validators: they accept most valid values, and explain nothing.

Every request is validated, and nearly all are valid, so validation must be cheap. Each field
(headwater_protocol.fields) therefore has a fast validator next to its full check:

    get(transaction, key, at_commit)      Members(OrNone(Bytes(16, 16)),
                                                  Bytes(1, 8192),
                                                  OrNone(Int(0, 9223372036854775807)))

A fast validator never accepts an invalid value. If it does not accept a value, the field's full
check decides, and writes the error message. This module is compiled if possible (hatch_build.py).
Its classes are simple, so that a validator is a few machine instructions.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class FastValidator:
    """Base class. It accepts nothing, so the full check is always made."""

    def accepts(self, value: object) -> bool:  # noqa: ARG002
        """Whether *value* is certainly valid."""
        return False


class Bytes(FastValidator):
    """Accepts bytes of a size within bounds."""

    def __init__(self, size_min: int, size_max: int) -> None:
        self._size_min = size_min
        self._size_max = size_max

    def accepts(self, value: object) -> bool:
        return type(value) is bytes and self._size_min <= len(value) <= self._size_max


def _is_encodable(value: str) -> bool:
    """Whether UTF-8 can encode it: it has no lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class Str(FastValidator):
    """Accepts a str without U+0000 and lone surrogates, of at most a fourth of the bytes allowed.

    So it is short enough whatever its characters take in UTF-8.
    """

    def __init__(self, size_min: int, size_max: int) -> None:
        self._size_min = size_min
        self._length_max = size_max // 4

    def accepts(self, value: object) -> bool:
        return (
            type(value) is str
            and self._size_min <= len(value) <= self._length_max
            and "\0" not in value
            and (value.isascii() or _is_encodable(value))
        )


class Int(FastValidator):
    """Accepts an int within bounds."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def accepts(self, value: object) -> bool:
        return type(value) is int and self._minimum <= value <= self._maximum


class Bool(FastValidator):
    """Accepts True and False."""

    def accepts(self, value: object) -> bool:
        return type(value) is bool


class OneOf(FastValidator):
    """Accepts one of a few words."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = frozenset(words)

    def accepts(self, value: object) -> bool:
        return type(value) is str and value in self._words


class OrNone(FastValidator):
    """Accepts None, and what another validator accepts."""

    def __init__(self, inner: FastValidator) -> None:
        self._inner = inner

    def accepts(self, value: object) -> bool:
        return value is None or self._inner.accepts(value)


class Each(FastValidator):
    """Accepts a list of bounded length whose members one validator accepts."""

    def __init__(self, item: FastValidator, count_min: int, count_max: int) -> None:
        self._item = item
        self._count_min = count_min
        self._count_max = count_max

    def accepts(self, value: object) -> bool:
        if type(value) is not list or not self._count_min <= len(value) <= self._count_max:
            return False
        item = self._item
        for member in value:  # noqa: SIM110 - a generator is three times as slow
            if not item.accepts(member):
                return False
        return True


class Members(FastValidator):
    """Accepts a list with one validator for each place. Trailing members may be left out."""

    def __init__(self, validators: Sequence[FastValidator], count_min: int) -> None:
        self._validators = list(validators)
        self._count_min = count_min
        # ByWord has already checked its word.
        self._begin = 1 if validators and type(validators[0]) is Anything else 0

    def accepts(self, value: object) -> bool:
        if type(value) is not list:
            return False
        validators = self._validators
        count = len(value)
        if not self._count_min <= count <= len(validators):
            return False
        for place in range(self._begin, count):  # noqa: SIM110 - as above
            if not validators[place].accepts(value[place]):
                return False
        return True


class ByWord(FastValidator):
    """Accepts a list that starts with a word, which selects the validator of the list."""

    def __init__(self, validators: Mapping[str, FastValidator]) -> None:
        self._validators = dict(validators)

    def accepts(self, value: object) -> bool:
        if type(value) is not list or not value:
            return False
        word = value[0]
        if type(word) is not str:
            return False
        validator = self._validators.get(word)
        return validator is not None and validator.accepts(value)


class NoMembers(FastValidator):
    """Accepts an empty map."""

    def accepts(self, value: object) -> bool:
        return type(value) is dict and not value


class Anything(FastValidator):
    """Accepts anything. It stands for the word of a ByWord, which has been checked."""

    def accepts(self, value: object) -> bool:  # noqa: ARG002
        return True


class Arguments:
    """Validates the arguments of an operation and adds the defaults.

    *defaults* lists the missing defaults by the number of given arguments.
    """

    def __init__(self, validator: Members, defaults: Sequence[list[Any]]) -> None:
        self._validator = validator
        self._defaults = list(defaults)
        # Whether all these defaults are immutable, so that calls can share them.
        self._shared = [all(fresh(member) is member for member in each) for each in defaults]
        self._count = len(defaults) - 1

    def accepts(self, values: list[Any]) -> bool:
        """Whether the values are certainly valid."""
        return self._validator.accepts(values)

    def completed(self, values: list[Any]) -> list[Any] | None:
        """The values and the defaults of missing ones; None if the full check is needed."""
        if not self._validator.accepts(values):
            return None
        count = len(values)
        if count == self._count:
            return values
        missing = self._defaults[count]
        return values + (missing if self._shared[count] else [fresh(each) for each in missing])


def fresh(default: Any) -> Any:
    """A default for one call: a new list or map if it is one, because the caller may change it."""
    return type(default)() if type(default) in (list, dict) else default
