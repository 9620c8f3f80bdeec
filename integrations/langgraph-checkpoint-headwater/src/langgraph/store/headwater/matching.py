"""Which items a search finds, and which namespaces a listing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from langgraph.store.base import MatchCondition

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$eq": lambda a, b: bool(a == b),
    "$ne": lambda a, b: bool(a != b),
    "$gt": lambda a, b: a is not None and float(a) > float(b),
    "$gte": lambda a, b: a is not None and float(a) >= float(b),
    "$lt": lambda a, b: a is not None and float(a) < float(b),
    "$lte": lambda a, b: a is not None and float(a) <= float(b),
}


def matches(item: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's value matches a filter.

    Raises:
        ValueError: the filter has an unknown operator, or compares what is no number.
    """
    return all(_fits(item.get(name), value) for name, value in (wanted or {}).items())


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_comparison(name)(value, bound) for name, bound in wanted.items())
        return isinstance(value, Mapping) and all(
            _fits(value.get(name), member) for name, member in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(_fits, value, wanted))
        )
    return bool(value == wanted)


def _comparison(name: str) -> Callable[[Any, Any], bool]:
    try:
        return _COMPARISONS[name]
    except KeyError:
        known = ", ".join(_COMPARISONS)
        raise ValueError(f"filter: unknown operator {name!r}; there are {known}") from None


def namespace_matches(condition: MatchCondition, namespace: Sequence[str]) -> bool:
    """Whether a namespace begins or ends with the path of a condition; "*" is any label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)]
    if condition.match_type == "suffix":
        part = namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))
