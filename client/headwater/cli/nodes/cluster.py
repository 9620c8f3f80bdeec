"""`headwater cluster`: the nodes of a cluster, and which of them leads."""

import json
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import json_option

_COLUMNS: Final = ("name", "role", "lease", "epoch", "index", "commit", "heard_ms", "address")


@click.group()
def cluster() -> None:
    """Look at a cluster, or make its leader step down."""


@cluster.command()
@connection_options
@json_option
def status(connector: Connector, *, as_json: bool) -> None:
    """Show the nodes that the node at the URL knows, and the stream with the log.

    A node that was heard more than three seconds ago is probably down. Exit status 1: something is
    wrong with the node or with the stream.
    """
    with connector.connect() as db:
        found = db.cluster_status()
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    if found["problem"] is not None:
        raise SystemExit(1)


@cluster.command()
@connection_options
def resign(connector: Connector) -> None:
    """Make the leader at the URL step down, so that another node takes over at once.

    Do it before the machine of the leader is taken away. A clean stop of the server does it too.
    """
    with connector.connect() as db:
        db.cluster_resign()
    click.echo("resigned; another node takes over")


def _show(found: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"nodes, as {found['node']} knows them", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column.replace("_", " "))
    for node in found["nodes"]:
        table.add_row(*(_shown(node[column]) for column in _COLUMNS))
    console.print(table)
    stream = found["stream"]
    words = ", ".join(
        f"{name} {_shown(value)}" for name, value in stream.items() if name != "replicas"
    )
    click.echo(f"stream: {words}")
    for name, current, lag in stream.get("replicas", ()):
        click.echo(f"  replica {name}: {'current' if current else f'{lag} behind'}")
    if found["problem"] is not None:
        click.echo(f"problem: {found['problem']}")


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)
