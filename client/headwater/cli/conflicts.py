"""`headwater conflicts` and `headwater explain-conflict`: why transactions were refused."""

from typing import Any, Final
from uuid import UUID

import click

from headwater.accounts.conflicts import RefusedTransaction
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import json_line, json_option, show
from headwater_protocol.limits import CONFLICTS_LISTED_MAX

_COLUMNS: Final = ("transaction", "time", "user", "kind", "subject", "winner")


@click.command()
@connection_options
@json_option
@click.option(
    "--limit", type=click.IntRange(1, CONFLICTS_LISTED_MAX), default=20, show_default=True
)
def conflicts(connector: Connector, as_json: bool, limit: int) -> None:
    """List the transactions that were refused for a conflict, the newest first.

    The server remembers the last few hundred until it ends. Without the right admin, only the own
    ones are shown.
    """
    with connector.connect() as db:
        show(_COLUMNS, map(_row, db.conflicts(limit=limit)), as_json=as_json)


@click.command("explain-conflict")
@connection_options
@json_option
@click.argument("transaction", type=click.UUID, metavar="ID")
def explain_conflict(connector: Connector, as_json: bool, transaction: UUID) -> None:
    """Explain why the transaction ID was refused: what it read and wrote, and who won.

    `headwater conflicts` lists the ids.
    """
    with connector.connect() as db:
        found = db.conflicts(transaction)
    if not found:
        raise click.ClickException(
            f"no conflict of transaction {transaction} is remembered. The server keeps the last "
            f"{CONFLICTS_LISTED_MAX} until it ends, and only administrators see those of others"
        )
    refused = found[0]
    if as_json:
        members = {name: getattr(refused, name) for name in RefusedTransaction.__slots__}
        click.echo(json_line(members))
        return
    for line in explained(refused):
        click.echo(line)


def _row(refused: RefusedTransaction) -> dict[str, Any]:
    first = refused.conflicts[0] if refused.conflicts else {}
    return {
        "transaction": str(refused.transaction),
        "time": f"{refused.time:%Y-%m-%d %H:%M:%S}",
        "user": refused.user,
        "kind": first.get("kind", refused.code),
        "subject": _subject(first),
        "winner": first.get("commit"),
    }


def explained(refused: RefusedTransaction) -> list[str]:
    """The explanation, in lines."""
    lines = [f"transaction {refused.transaction} was refused at {refused.time:%Y-%m-%d %H:%M:%S}"]
    lines.append(f"  {refused.message}")
    who = [refused.user or "", refused.connection or ""]
    if any(who):
        lines.append(f"  by         {' '.join(filter(None, who))}")
    if refused.began is not None:
        lines.append(
            f"  began at   commit {refused.began}, {refused.newest - refused.began} commits before "
            f"it was refused ({refused.isolation})"
        )
    lines += _listed("  read", refused.read)
    lines += _listed("  wrote", refused.wrote)
    for conflict in refused.conflicts:
        lines.append(f"{conflict['kind']} on {_subject(conflict)}")
    for winner in refused.winners:
        told = f"commit {winner['commit']}"
        if "time" in winner:
            told += f" of {winner['time']:%Y-%m-%d %H:%M:%S}, transaction {winner['transaction']}"
        if winner.get("user"):
            told += f", by {winner['user']}"
        lines.append(f"{told} won")
        lines += _listed("  wrote", winner)
    return lines


def _listed(title: str, members: Any) -> list[str]:
    """Lines with the subjects of a kind of access, and how many more there were."""
    kinds = ("keys", "ranges", "streams", "queries", "snapshots")
    subjects = [f"{kind}: {subject!r}" for kind in kinds for subject in members.get(kind, ())]
    more = members.get("count", len(subjects)) - len(subjects)
    if more > 0:
        subjects.append(f"and {more} more")
    return [f"{title if place == 0 else '':11}{told}" for place, told in enumerate(subjects)]


def _subject(conflict: Any) -> str:
    for name in ("key", "stream", "query", "snapshot"):
        if name in conflict:
            return f"{name} {conflict[name]!r}"
    return str(conflict.get("message", ""))
