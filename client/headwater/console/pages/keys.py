"""Keys as a tree by their members; one key with its value, its history, and why it is so."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.addresses import key_address, key_from_address
from headwater.console.pages.commits import value_of_key
from headwater.console.pages.reasons import HISTORY_MAX, VersionRow, explained, sums, versions_of
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
        below: how many keys begin with it that are longer.
        more: whether there are more than that.
        children: the children that are open.
        changed: whether the value was another at the commit that is compared with.
    """

    key: KeyTuple
    there: bool
    value: Any
    below: int
    more: bool
    children: "list[Branch] | None" = None
    changed: bool = False


async def keys(visit: Visit) -> Page | Elsewhere:
    """The page of keys."""
    if visit.get("go"):
        wanted = key_address(key_from_address(visit.get("go")))
        return Elsewhere(visit.url("/keys", {"key": wanted}))
    chosen = key_from_address(visit.get("key")) if visit.get("key") else None
    prefix = key_from_address(visit.get("prefix")) if visit.get("prefix") else None
    opened = prefix if prefix is not None else (chosen or ())[:-1]
    values: dict[str, Any] = {
        "chosen": chosen,
        "opened": opened,
        "tree": None,
        "entry": None,
        "there": False,
        "then": None,
        "versions": [],
        "sums": None,
        "explained": None,
        "grants": [
            one
            for one in (await visit.session.rights()).grants
            if one.on == "keys" and one.right == "read"
        ],
    }
    if visit.moment.gone:
        values["tree"] = Hidden("past", "older than the history window")
        return Page("keys.html", "Keys", "/keys", values)
    values["tree"] = await visit.part(_tree(visit, opened))
    versions: list[VersionRow] = []
    if chosen:
        versions = await _fill(visit, chosen, values)
    title = key_text(chosen) if chosen else "Keys"
    marks = [(one.commit, "") for one in versions if one.existed is not None]
    return Page("keys.html", title, "/keys", values, marks=marks)


async def _fill(visit: Visit, chosen: KeyTuple, values: dict[str, Any]) -> list[VersionRow]:
    """What the page shows of one key."""
    stored = await visit.past.get(chosen)
    values["there"] = stored is not None
    values["entry"] = value_of_key(visit, chosen, stored)
    since = visit.moment.since
    if since is not None and since >= visit.moment.oldest:
        old = await visit.db.at(commit=since).get(chosen)
        values["then"] = ("absent" if old is None else "there", value_of_key(visit, chosen, old))
    # The history of now has what is later than the moment, too.
    versions = await versions_of(visit, chosen)
    values["versions"] = versions
    before = [one for one in versions if one.commit <= visit.moment.commit]
    # Sums of a part of the changes would be wrong.
    values["sums"] = sums(before) if len(versions) < HISTORY_MAX else None
    values["explained"] = await visit.part(explained(visit, chosen))
    return versions


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
            return [Branch(reached, False, None, len(inner), False, inner)]
        if inner is not None:
            level = [_opened(one, reached, inner) for one in level]
        inner, reached = level, here
    return inner or []


def _opened(branch: Branch, key: KeyTuple, children: list[Branch]) -> Branch:
    if branch.key != key:
        return branch
    return Branch(
        branch.key,
        branch.there,
        branch.value,
        branch.below,
        branch.more,
        children,
        branch.changed,
    )


async def _level(visit: Visit, prefix: KeyTuple) -> list[Branch]:
    past = visit.past
    branches = [one async for one in past.branches(prefix, limit=CHILDREN_MAX)]
    children: list[KeyTuple] = [one.prefix for one in branches]
    stored = await past.get_many(children) if children else []
    since = visit.moment.since
    old = stored
    if since is not None and children and since >= visit.moment.oldest:
        old = await visit.db.at(commit=since).get_many(children)
    return [
        Branch(
            one.prefix,
            one.is_key,
            value_of_key(visit, one.prefix, value),
            one.below,
            one.more,
            None,
            value != before,
        )
        for one, value, before in zip(branches, stored, old, strict=True)
    ]
