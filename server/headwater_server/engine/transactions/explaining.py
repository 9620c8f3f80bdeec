"""The explanation of a conflict: the refused transaction, and the commits that won against it.

What a winner wrote is looked up now: its keys in the changes of the history window, its events in
the event log. So an old winner may be known by its commit record alone, or not at all.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.changes import keys_written
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.refusals import (
    SUBJECTS_KEPT,
    Refusals,
    Refused,
)

NameOf = Callable[[int], str | None]
"""The name of the user with a number."""

WINNERS_MAX: Final = 5
"""Commits that are described for one refused transaction. Each may cost twenty reads."""


def explain_all(
    refusals: Refusals,
    view: int,
    name_of: NameOf,
    one: bytes | None,
    limit: int,
    user: int | None = None,
) -> list[dict[str, Any]]:
    """Refused transactions in the protocol's form, the newest first.

    *one*: only this transaction. *user*: only those of a user, and less of the winners.
    """
    found = refusals.newest() if one is None else [refusals.find(one)]
    own = [each for each in found if each is not None and user in (None, each.user)]
    state, whole = refusals.state, user is None
    return [explain(state, view, each, name_of, whole=whole) for each in own[:limit]]


def explain(
    state: State, view: int, refused: Refused, name_of: NameOf, *, whole: bool
) -> dict[str, Any]:
    """A refused transaction in the protocol's form.

    With *whole*, also what the commits wrote that won, and whose they are.
    """
    winners = dict.fromkeys(
        conflict["commit"] for conflict in refused.conflicts if conflict.get("commit")
    )
    return {
        "transaction": refused.transaction,
        "code": refused.code,
        "message": refused.message,
        "time": refused.time,
        "user": name_of(refused.user),
        "connection": refused.connection,
        "isolation": refused.isolation,
        "began": refused.began,
        "newest": refused.newest,
        "read": refused.read,
        "wrote": refused.wrote,
        "conflicts": refused.conflicts,
        "winners": [
            winner(state, view, commit, name_of, whole=whole)
            for commit in islice(winners, WINNERS_MAX)
        ],
    }


def winner(state: State, view: int, commit: int, name_of: NameOf, *, whole: bool) -> dict[str, Any]:
    """A commit that won: its record, and with *whole* what it wrote."""
    found: dict[str, Any] = {"commit": commit}
    if commit < state.files.oldest_commit or commit > view:
        # Its record was trimmed, or it is not durable yet.
        return found
    record = state.commit_record(commit)
    found |= {"transaction": record.transaction, "time": record.time}
    if not whole:
        return found
    found["user"] = name_of(record.user)
    found["events"] = record.event_count
    if record.event_count:
        last = record.first_position + min(record.event_count, SUBJECTS_KEPT)
        found["streams"] = _streams(state, range(record.first_position, last))
    if commit > state.files.horizon:
        keys = (key for key in keys_written(state, commit) if key.startswith(keyspaces.USER))
        found["keys"] = [key[1:] for key in islice(keys, SUBJECTS_KEPT)]
    return found


def _streams(state: State, positions: range) -> list[str]:
    try:
        stored = state.events(list(positions))
    except DamagedFile:
        return []
    return list(dict.fromkeys(decode_event(event).stream for event in stored if event))
