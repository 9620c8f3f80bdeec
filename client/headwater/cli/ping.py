"""`headwater ping`: check that a server answers, what it is, and how fast."""

import time
from datetime import timedelta
from typing import Any

import click

from headwater.accounts.nodes import NodeInfo, Pong
from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import json_line, json_option
from headwater.errors import AuthenticationFailed, ConnectionLost


@click.command()
@connection_options
@click.option("-n", "--count", default=1, type=click.IntRange(min=1), help="Number of requests.")
@click.option(
    "--interval",
    default=0.2,
    type=click.FloatRange(min=0),
    help="Seconds between two requests.",
)
@json_option
def ping(connector: Connector, count: int, interval: float, *, as_json: bool) -> None:
    """Ask a server for its newest commit, and what it is: leader or follower.

    If no user is given and the server requires one, the ping counts as a success. So health checks
    need no user. Then its commit is null in JSON. If the URL has several addresses, each node is
    asked, and one of them must lead.
    """
    databases = connector.connect_each()
    if len(databases) == 1:
        _ping_at_all(databases[0], count, interval, as_json=as_json)
        return
    roles = set()
    for database in databases:
        try:
            roles.add(_ping_at_all(database, count, interval, as_json=as_json))
        except ConnectionLost as error:
            if as_json:
                click.echo(json_line(_row(database)))
            else:
                click.echo(f"{database.address}: {error.message}")
    if not roles & {"leader", None}:
        raise ConnectionLost("no node leads")


def _ping_at_all(
    database: BlockingDatabase, count: int, interval: float, *, as_json: bool
) -> str | None:
    """Ping a node, and return its role; None: it is unknown."""
    try:
        return _ping(database, count, interval, as_json=as_json)
    except AuthenticationFailed:
        if database.address.user is not None:
            raise
        if as_json:
            click.echo(json_line(_row(database)))
        else:
            click.echo(f"{database.address}: up, and requires a user")
        return None


def _ping(database: BlockingDatabase, count: int, interval: float, *, as_json: bool) -> str | None:
    times = []
    role = None
    with database as db:
        for number in range(count):
            if number:
                time.sleep(interval)
            began = time.perf_counter()
            pong = db.ping()
            times.append((time.perf_counter() - began) * 1000)
            role = "leader" if pong.node is None else pong.node.role
            if as_json:
                click.echo(json_line(_row(db, pong, times[-1])))
            else:
                click.echo(
                    f"{db.address}: {role}, commit {pong.commit}, {times[-1]:.2f} ms"
                    + ("" if pong.node is None else shown_lag(pong.node))
                )
    if count > 1 and not as_json:
        mean = sum(times) / count
        click.echo(f"{count} times: {min(times):.2f} to {max(times):.2f} ms, mean {mean:.2f} ms")
    return role


def _row(
    database: BlockingDatabase, pong: Pong | None = None, ms: float | None = None
) -> dict[str, Any]:
    """A line of JSON. What is not known is null."""
    node = None if pong is None else pong.node
    lag = None if node is None or node.lag is None else node.lag / timedelta(seconds=1)
    return {
        "address": str(database.address),
        "commit": None if pong is None else pong.commit,
        "ms": ms,
        "role": None if node is None else node.role,
        "leader": None if node is None else node.leader,
        "lag_commits": None if node is None else node.lag_commits,
        "lag": lag,
    }


def shown_lag(node: NodeInfo) -> str:
    """How far a follower is behind, for people; empty for a leader."""
    if node.role != "follower":
        return ""
    leader = node.leader or "its leader"
    if node.lag is None:
        return f", has not reached {leader} yet"
    seconds = node.lag / timedelta(seconds=1)
    return f", {node.lag_commits} commits and {seconds:.1f} s behind {leader}"
