"""Keys as a tree by their members, and one key: its value at the moment."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.addresses import key_address, key_from_address
from headwater.console.pages.commits import value_of_key
from headwater.console.visits import Elsewhere, Hidden, Page, Visit
from headwater.console.words import key_text
from headwater_protocol.keys import KeyTuple

CHILDREN_MAX: Final = 100
"""Branches and leaves of one level. A longer prefix leads to the others."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A child of a prefix.

    Attributes:
        key: its members.
        there: whether it is a key itself, with a value.
        value: of that key.
        below: whether keys begin with it that are longer.
        children: the children that are open.
        changed: whether the value was another at the commit that is compared with.
    """

    key: KeyTuple
    there: bool
    value: Any
    below: bool
    children: "list[Branch] | None" = None
    changed: bool = False


async def keys(visit: Visit) -> Page | Elsewhere:
    """The page of keys."""
    if visit.get("go"):
        return Elsewhere(
            visit.url("/keys", {"key": key_address(key_from_address(visit.get("go")))})
        )
    chosen = key_from_address(visit.get("key")) if visit.get("key") else None
    prefix = key_from_address(visit.get("prefix")) if visit.get("prefix") else None
    opened = prefix if prefix is not None else (chosen or ())[:-1]
    values: dict[str, Any] = {
        "chosen": chosen,
        "opened": opened,
        "tree": None,
        "entry": None,
        "then": None,
        "grants": [
            one
            for one in (await visit.session.rights()).grants
            if one.on == "keys" and one.right == "read"
        ],
        "count": None,
        "there": False,
    }
    if visit.moment.gone:
        values["tree"] = Hidden("past", "older than the history window")
        return Page("keys.html", "Keys", "/keys", values)
    values["tree"] = await visit.part(_tree(visit, opened))
    if chosen:
        stored = await visit.past.get(chosen)
        values["there"] = stored is not None
        values["entry"] = value_of_key(visit, chosen, stored)
        if visit.moment.since is not None and visit.moment.since >= visit.moment.oldest:
            old = await visit.db.at(commit=visit.moment.since).get(chosen)
            values["then"] = (
                "absent" if old is None else "there",
                value_of_key(visit, chosen, old),
            )
    title = key_text(chosen) if chosen else "Keys"
    return Page("keys.html", title, "/keys", values)


async def _tree(visit: Visit, opened: KeyTuple) -> list[Branch]:
    """The top of the tree, with the branches on the way to *opened* open.

    Whoever may read only a part of the keys sees the tree from there on.
    """
    inner: list[Branch] | None = None
    reached: KeyTuple = opened
    for depth in range(len(opened), -1, -1):
        here = opened[:depth]
        level = await visit.part(_level(visit, here))
        if isinstance(level, Hidden):
            if inner is None:
                return await _level(visit, here)
            return [Branch(reached, False, None, True, inner)]
        if inner is not None:
            level = [_opened(one, reached, inner) for one in level]
        inner, reached = level, here
    return inner or []


def _opened(branch: Branch, key: KeyTuple, children: list[Branch]) -> Branch:
    if branch.key != key:
        return branch
    return Branch(branch.key, branch.there, branch.value, branch.below, children, branch.changed)


async def _level(visit: Visit, prefix: KeyTuple) -> list[Branch]:
    past = visit.past
    children: list[KeyTuple] = [one async for one in past.prefixes(prefix, limit=CHILDREN_MAX + 1)][
        :CHILDREN_MAX
    ]
    stored = await past.get_many(children) if children else []
    since = visit.moment.since
    old = stored
    if since is not None and children and since >= visit.moment.oldest:
        old = await visit.db.at(commit=since).get_many(children)
    found = []
    for key, value, before in zip(children, stored, old, strict=True):
        below = value is None or await _has_longer(visit, key)
        shown = value_of_key(visit, key, value)
        found.append(Branch(key, value is not None, shown, below, None, value != before))
    return found


async def _has_longer(visit: Visit, key: KeyTuple) -> bool:
    """Whether there is a key that begins with *key* and is longer."""
    found = [one async for one in visit.past.scan(key, limit=2, values=False)]
    return any(len(one) > len(key) for one in found)
