"""`headwater backup`: have a server make a backup of its data."""

from typing import Final

import click

from headwater.cli.connection_options import Connector, connection_options

ANSWER_S_MAX: Final = 24 * 3600.0
"""Seconds that a backup may take: a day copies terabytes. A server that goes away ends the
connection, and with it the waiting."""


@click.command()
@connection_options
@click.argument("name")
def backup(connector: Connector, name: str) -> None:
    """Make the backup NAME in the directory that the server has for backups (--backup-dir).

    The server goes on serving. The backup has every commit that was acknowledged before, and is a
    data directory: `headwater check` verifies it, `headwater restore` copies it to where a server
    is to run.
    """
    with connector.connect(answer_timeout=ANSWER_S_MAX) as db:
        made = db.backup(name)
    click.echo(f"{name}: commit {made.commit}, position {made.position}, {made.size:,} bytes")
