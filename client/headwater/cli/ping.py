"""`headwater ping`: is a server there, and how far away."""

import time

import click

from headwater.cli.connection_options import Connector, connection_options


@click.command()
@connection_options
@click.option("-n", "--count", default=1, type=click.IntRange(min=1), help="How often to ask.")
@click.option(
    "--interval",
    default=0.2,
    type=click.FloatRange(min=0),
    help="Seconds from one time to the next.",
)
def ping(connector: Connector, count: int, interval: float) -> None:
    """Ask a server for its newest commit."""
    times = []
    with connector.connect() as db:
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
