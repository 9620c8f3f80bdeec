"""Checks as one expression: the fast side of headwater_protocol.fields.

Nearly all requests are right, and each is checked, so what a check costs is paid on every one.
A record's fields are therefore put together into one function, written out when the vocabulary
is defined, as dataclasses write their `__init__`:

    get(transaction, key, at_commit)

    def fits(values):
        if len(values) != 3:
            return False
        v0, v1, v2 = values
        return (
            (v0 is None or (type(v0) is bytes and len(v0) == 16))
            and (type(v1) is bytes and 1 <= len(v1) <= 8192)
            and (v2 is None or (type(v2) is int and 0 <= v2 <= 9223372036854775807))
        )

It only accepts. What it does not accept, the field's own check refuses, with words for it, or
accepts after a closer look. Nothing of a request is ever in the text of such a function.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Test = Callable[[Any], bool]


class Fitting(Protocol):
    """A field that can say in an expression which values surely fit."""

    def fits(self, value: str, names: "Names") -> str:
        """An expression of the variable *value*, true only if the field allows it."""


class Names:
    """The objects that the text of a function speaks of, by the names given to them."""

    def __init__(self) -> None:
        self.objects: dict[str, object] = {}

    def add(self, object_: object) -> str:
        """A name for an object."""
        name = f"_{len(self.objects)}"
        self.objects[name] = object_
        return name


def all_fit(fields: Sequence[Fitting]) -> Test:
    """Whether a list has as many members as *fields*, and all of them fit."""
    return _compile(fields, first=0)


def tail_fits(fields: Sequence[Fitting]) -> Test:
    """Whether a list has one member, whatever it is, and then those that fit *fields*."""
    return _compile(fields, first=1)


def each_fits(field: Fitting) -> Test:
    """Whether every member of a list fits *field*."""
    names = Names()
    return _define(
        "    for value in values:\n"
        f"        if not ({field.fits('value', names)}):\n"
        "            return False\n"
        "    return True\n",
        names,
    )


def _compile(fields: Sequence[Fitting], *, first: int) -> Test:
    if not fields:
        return lambda values: len(values) == first
    names = Names()
    variables = [f"v{place}" for place in range(first, first + len(fields))]
    tests = [
        f"({field.fits(variable, names)})"
        for field, variable in zip(fields, variables, strict=True)
    ]
    targets = ", ".join(["_"] * first + variables)
    count = first + len(fields)
    return _define(
        f"    if len(values) != {count}:\n"
        "        return False\n"
        f"    {targets}, = values\n"
        f"    return {' and '.join(tests)}\n",
        names,
    )


def _define(body: str, names: Names) -> Test:
    scope = dict(names.objects)
    exec(f"def fits(values):\n{body}", scope)  # noqa: S102 - text of our own, see the module
    fits: Test = scope["fits"]  # type: ignore[assignment]
    return fits
