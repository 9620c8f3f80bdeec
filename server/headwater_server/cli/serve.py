"""`headwater serve`: run a server."""

import sys
from typing import Any, Final

import click
import trio

from headwater_server.cli.descriptors import raise_limit
from headwater_server.cli.failures import one_line
from headwater_server.cli.options import server_options, settings_from
from headwater_server.net import logs
from headwater_server.net.failures import CommitFailed
from headwater_server.net.server import serve as run_server
from headwater_server.net.tasks.checkpointer import CheckpointFailed

DISK_FAILED: Final = 74
"""Exit status after a disk failure: EX_IOERR of sysexits.h. A restart reads what is durable."""


@click.command()
@server_options
def serve(**values: Any) -> None:
    """Run a server on the data directory DIR until SIGTERM or Ctrl-C.

    While the database has no users, the server listens only on loopback addresses and Unix sockets.

    Each setting comes from its option, else from its environment variable, else from the file
    given by --config.
    """
    settings = settings_from(values)
    logs.configure(settings.log_format, settings.log_level)
    raise_limit()
    with one_line():
        try:
            trio.run(run_server, settings)
        except (CommitFailed, CheckpointFailed) as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(DISK_FAILED)
