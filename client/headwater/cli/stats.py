"""`headwater stats` and `headwater connections`: a server's statistics and its connections."""

import json
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import json_option, show
from headwater.records import time_of

_COLUMNS: Final = (
    "id",
    "address",
    "user",
    "client",
    "age_s",
    "memory",
    "transactions",
    "subscriptions",
    "memberships",
)

TIMES_FROM: Final = 10**15
"""Values above this (the year 2001) whose name ends in "time" are microseconds since 1970."""


@click.command()
@connection_options
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def stats(connector: Connector, as_json: bool) -> None:
    """Show the statistics of a server."""
    with connector.connect() as db:
        figures = db.stats()
    if as_json:
        click.echo(json.dumps(figures, indent=2, default=_plain))
        return
    console = Console()
    single = {name: value for name, value in figures.items() if not _is_table(value)}
    if single:
        console.print(_figures("server", single))
    for name, value in figures.items():
        if _is_table(value):
            console.print(_rows(name, value) if isinstance(value, list) else _figures(name, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _figures(title: str, figures: dict[str, Any]) -> Table:
    table = Table(title=_words(title), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(_words(name), _shown_as(name, value))
    return table


def _rows(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=_words(title), title_justify="left")
    for name, value in rows[0].items():
        table.add_column(_words(name), justify="right" if isinstance(value, int) else "left")
    for row in rows:
        table.add_row(*(_shown_as(name, row.get(name)) for name in rows[0]))
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown_as(name: str, value: Any) -> str:
    """Format a value. Its name tells whether it is a time."""
    if isinstance(value, int) and name.split("_")[-1] == "time" and value > TIMES_FROM:
        return f"{time_of(value):%Y-%m-%d %H:%M:%S} UTC"
    return _shown(value)


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return {True: "yes", False: "no", None: ""}[value]
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}"
        case bytes():
            return value.hex()
        case list() if not value:
            return "none"
        case dict():
            return ", ".join(f"{_words(name)} {_shown(inner)}" for name, inner in value.items())
        case _:
            return str(value)


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


@click.group(invoke_without_command=True)
@connection_options
@json_option
@click.pass_context
def connections(context: click.Context, connector: Connector, as_json: bool) -> None:
    """List the open connections with their users, memory and age, or close one."""
    if context.invoked_subcommand is not None:
        return
    with connector.connect() as db:
        rows = (
            {
                "id": each.id,
                "address": each.address,
                "user": each.user,
                "client": each.client,
                "age_s": round(each.age.total_seconds(), 1),
                "memory": each.memory,
                "transactions": each.transactions,
                "subscriptions": each.subscriptions,
                "memberships": each.memberships,
            }
            for each in db.connections.list()
        )
        show(_COLUMNS, rows, as_json=as_json)


@connections.command()
@connection_options
@click.argument("number", type=int, metavar="ID")
def close(connector: Connector, number: int) -> None:
    """End a connection. Its client may connect again; remove its user to prevent that."""
    with connector.connect() as db:
        db.connections.close(number)
    click.echo(f"connection {number} closed")


@connections.command("close-user")
@connection_options
@click.argument("name")
def close_user(connector: Connector, name: str) -> None:
    """End all connections of a user, except the one that this command uses."""
    with connector.connect() as db:
        count = db.connections.close_user(name)
    click.echo(f"{count} connections of {name} closed")
