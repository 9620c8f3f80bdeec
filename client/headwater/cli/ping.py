"""`headwater ping`: check that a server answers, and how fast."""

import time

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import json_line, json_option
from headwater.errors import AuthenticationFailed


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
    """Ask a server for its newest commit.

    If no user is given and the server requires one, the ping counts as a success. So health checks
    need no user. Then its commit is null in JSON.
    """
    database = connector.connect()
    try:
        _ping(database, count, interval, as_json=as_json)
    except AuthenticationFailed:
        if database.address.user is not None:
            raise
        if as_json:
            click.echo(json_line({"address": str(database.address), "commit": None, "ms": None}))
        else:
            click.echo(f"{database.address}: up, and requires a user")


def _ping(database: BlockingDatabase, count: int, interval: float, *, as_json: bool) -> None:
    times = []
    with database as db:
        for number in range(count):
            if number:
                time.sleep(interval)
            began = time.perf_counter()
            pong = db.ping()
            times.append((time.perf_counter() - began) * 1000)
            if as_json:
                row = {"address": str(db.address), "commit": pong.commit, "ms": times[-1]}
                click.echo(json_line(row))
            else:
                click.echo(f"{db.address}: commit {pong.commit}, {times[-1]:.2f} ms")
    if count > 1 and not as_json:
        mean = sum(times) / count
        click.echo(f"{count} times: {min(times):.2f} to {max(times):.2f} ms, mean {mean:.2f} ms")
