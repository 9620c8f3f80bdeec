"""The branches of keys behind a prefix, each with how many keys are in it.

    keys       ("a",)   ("a", 1)   ("a", 2, 7)   ("b", 1)
    branches   ("a",)  itself a key, 2 below     ("b",)  no key, 1 below

Each branch costs one seek, and the keys that are counted in it, which are bounded: a tree is drawn
without reading what is under its branches.
"""

from typing import Final, NamedTuple

from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.reads.key_names import (
    EXAMINED_KEYS_MAX,
    PREFIXES_MAX,
    after_prefix,
    beginning_of,
)
from headwater_server.engine.state.layers import State

_SIZE_MAX: Final = 4 * PAGE_SIZE_MAX
"""Bytes of keys and values that are met: the values are stored beside the keys."""

_MET_AT_ONCE: Final = 16
"""Keys that are met in one seek, at least, to get past deleted ones."""


class Branch(NamedTuple):
    """A distinct beginning of keys: whether it is itself a key, and how many longer ones begin so.

    *more* says that there are more than were counted.
    """

    beginning: bytes
    is_key: bool
    below: int
    more: bool


def branches(
    state: State,
    start: bytes,
    end: bytes,
    view: int,
    *,
    size: int,
    delimiter: bytes | None,
    count_max: int,
    limit: int,
) -> tuple[list[Branch], bytes | None]:
    """The branches of the stored keys of [start, end), and where the range goes on.

    A beginning is as in `key_prefixes`. At most *count_max* keys are counted in each.
    """
    found: list[Branch] = []
    examined = met_size = 0
    at: bytes | None = start
    count = max(count_max + 2, _MET_AT_ONCE)
    while at is not None and at < end:
        if (
            len(found) >= min(limit, PREFIXES_MAX)
            or examined >= EXAMINED_KEYS_MAX
            or met_size >= _SIZE_MAX
        ):
            return found, at
        items, rest = state.first_items(at, end, view, count_max=count)
        examined += count
        met_size += sum(len(key) + len(value) for key, value in items)
        if not items:
            at = rest
            continue
        beginning = beginning_of(items[0][0], size, delimiter)
        within = [key for key, _ in items if key.startswith(beginning)]
        is_key = within[0] == beginning
        below = len(within) - is_key
        # Deleted keys are met too, so the branch may go on behind those that were met.
        goes_on = rest is not None and rest < after_prefix(beginning)
        found.append(Branch(beginning, is_key, min(below, count_max), below > count_max or goes_on))
        at = after_prefix(beginning)
    return found, None
