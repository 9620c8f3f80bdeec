"""`headwater backup`: let a server make a backup of its data."""

from typing import Final

import click

from headwater.cli.connection_options import Connector, connection_options

ANSWER_S_MAX: Final = 24 * 3600.0
"""Seconds that a backup may take. A day is enough to copy terabytes. If the server goes away, the
connection ends, and so does the wait."""


@click.command()
@connection_options
@click.argument("name")
def backup(connector: Connector, name: str) -> None:
    """Make the backup NAME in the server's directory for backups (--backup-dir).

    The server keeps running. The backup contains every commit that was acknowledged before. It is a
    data directory: `headwater check` verifies it, and `headwater restore` copies it to a new
    place.
    """
    with connector.connect(answer_timeout=ANSWER_S_MAX) as db:
        made = db.backup(name)
    click.echo(f"{name}: commit {made.commit}, position {made.position}, {made.size:,} bytes")
