"""`headwater ping`: check that a server answers, and how fast."""

import time

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
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
def ping(connector: Connector, count: int, interval: float) -> None:
    """Ask a server for its newest commit.

    If no user is given and the server requires one, the ping counts as a success. So health checks
    need no user.
    """
    database = connector.connect()
    try:
        _ping(database, count, interval)
    except AuthenticationFailed:
        if database.address.user is not None:
            raise
        click.echo(f"{database.address}: up, and requires a user")


def _ping(database: BlockingDatabase, count: int, interval: float) -> None:
    times = []
    with database as db:
        for number in range(count):
            if number:
                time.sleep(interval)
            began = time.perf_counter()
            pong = db.ping()
            times.append((time.perf_counter() - began) * 1000)
            click.echo(f"{db.address}: commit {pong.commit}, {times[-1]:.2f} ms")
    if count > 1:
        mean = sum(times) / count
        click.echo(f"{count} times: {min(times):.2f} to {max(times):.2f} ms, mean {mean:.2f} ms")
