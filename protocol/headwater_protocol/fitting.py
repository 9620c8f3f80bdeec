"""Tests that only say yes: the fast side of headwater_protocol.fields.

Nearly all requests are right, and each is checked, so what a check costs is paid on every one.
Each field therefore has a test beside its check, a small object that answers in a word:

    get(transaction, key, at_commit)      Members(OrNone(Bytes(16, 16)),
                                                  Bytes(1, 8192),
                                                  OrNone(Int(0, 9223372036854775807)))

A test only accepts. What it does not accept, the field's own check refuses, with words for it, or
accepts after a closer look. The module is compiled where that is possible (hatch_build.py); a
test is then a few machine instructions, and these classes are simple for that reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class Fitting:
    """Accepts nothing: for a field that always wants the closer look."""

    def fits(self, value: object) -> bool:  # noqa: ARG002
        """Whether *value* is surely allowed."""
        return False


class Bytes(Fitting):
    """bytes of a size within bounds."""

    def __init__(self, size_min: int, size_max: int) -> None:
        self._size_min = size_min
        self._size_max = size_max

    def fits(self, value: object) -> bool:
        return type(value) is bytes and self._size_min <= len(value) <= self._size_max


class Str(Fitting):
    """str without U+0000, so short that its UTF-8 keeps to the bound whatever it holds."""

    def __init__(self, size_min: int, size_max: int) -> None:
        self._size_min = size_min
        self._length_max = size_max // 4

    def fits(self, value: object) -> bool:
        return (
            type(value) is str
            and self._size_min <= len(value) <= self._length_max
            and "\0" not in value
        )


class Int(Fitting):
    """int within bounds."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum

    def fits(self, value: object) -> bool:
        return type(value) is int and self._minimum <= value <= self._maximum


class Bool(Fitting):
    """True or False."""

    def fits(self, value: object) -> bool:
        return type(value) is bool


class OneOf(Fitting):
    """One of a few words."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = frozenset(words)

    def fits(self, value: object) -> bool:
        return type(value) is str and value in self._words


class OrNone(Fitting):
    """None, or what fits another test."""

    def __init__(self, inner: Fitting) -> None:
        self._inner = inner

    def fits(self, value: object) -> bool:
        return value is None or self._inner.fits(value)


class Each(Fitting):
    """A list of a count within bounds, whose members all fit one test."""

    def __init__(self, item: Fitting, count_min: int, count_max: int) -> None:
        self._item = item
        self._count_min = count_min
        self._count_max = count_max

    def fits(self, value: object) -> bool:
        if type(value) is not list or not self._count_min <= len(value) <= self._count_max:
            return False
        item = self._item
        for member in value:  # noqa: SIM110 - a generator is thrice as slow
            if not item.fits(member):
                return False
        return True


class Members(Fitting):
    """A list with a test for each place, of which the last may be left out."""

    def __init__(self, tests: Sequence[Fitting], count_min: int) -> None:
        self._tests = list(tests)
        self._count_min = count_min
        # The word of a ByWord was looked at already.
        self._begin = 1 if tests and type(tests[0]) is Anything else 0

    def fits(self, value: object) -> bool:
        if type(value) is not list:
            return False
        tests = self._tests
        count = len(value)
        if not self._count_min <= count <= len(tests):
            return False
        for place in range(self._begin, count):  # noqa: SIM110 - as above
            if not tests[place].fits(value[place]):
                return False
        return True


class ByWord(Fitting):
    """A list that starts with a word, which says what the others must fit."""

    def __init__(self, tests: Mapping[str, Fitting]) -> None:
        self._tests = dict(tests)

    def fits(self, value: object) -> bool:
        if type(value) is not list or not value:
            return False
        word = value[0]
        if type(word) is not str:
            return False
        test = self._tests.get(word)
        return test is not None and test.fits(value)


class NoMembers(Fitting):
    """A map of nothing."""

    def fits(self, value: object) -> bool:
        return type(value) is dict and not value


class Anything(Fitting):
    """What was looked at already: the word of a ByWord."""

    def fits(self, value: object) -> bool:  # noqa: ARG002
        return True


class Arguments:
    """Tests the arguments of an operation, and completes them."""

    def __init__(self, test: Members, tails: Sequence[list[Any]]) -> None:
        self._test = test
        self._tails = list(tails)
        # Whether that list's members may be handed out again and again.
        self._lasting = [all(fresh(member) is member for member in tail) for tail in tails]
        self._count = len(tails) - 1

    def accepts(self, values: list[Any]) -> bool:
        """Whether the values are surely allowed."""
        return self._test.fits(values)

    def completed(self, values: list[Any]) -> list[Any] | None:
        """The values with the defaults of those left out; None if they need a closer look."""
        if not self._test.fits(values):
            return None
        count = len(values)
        if count == self._count:
            return values
        tail = self._tails[count]
        return values + (tail if self._lasting[count] else [fresh(member) for member in tail])


def fresh(default: Any) -> Any:
    """A default as it is handed out: an empty list or map is a new one, for it may be changed."""
    return type(default)() if type(default) in (list, dict) else default
