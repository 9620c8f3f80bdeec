"""`headwater serve`: run a server."""

import errno
import sys
from typing import Any

import click
import trio

from headwater_protocol.exit_codes import DISK_FAILED
from headwater_server.cli.allocator import return_large_blocks
from headwater_server.cli.descriptors import raise_limit
from headwater_server.cli.failures import one_line
from headwater_server.cli.options import server_options, settings_from
from headwater_server.net import logs
from headwater_server.net.failures import CommitFailed
from headwater_server.net.process import serve as run_server
from headwater_server.net.tasks.checkpointer import CheckpointFailed


@click.command()
@server_options
def serve(**values: Any) -> None:
    """Run a server on the data directory DIR until SIGTERM or Ctrl-C.

    On SIGHUP it reads the TLS certificate again, for new connections. Exit status 74: the disk
    failed, and a restart reads what is durable.

    While the database has no users, the server listens only on loopback addresses and Unix sockets.

    Each setting comes from its option, else from its environment variable, else from the file
    given by --config.
    """
    settings = settings_from(values)
    logs.configure(settings.log_format, settings.log_level)
    raise_limit()
    return_large_blocks()
    with one_line():
        try:
            trio.run(run_server, settings)
        except (CommitFailed, CheckpointFailed) as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(DISK_FAILED)
        except OSError as error:
            # At a start, and when the files are closed. Others say that a setting is wrong.
            if error.errno != errno.EIO:
                raise
            click.echo(f"Error: {error}", err=True)
            sys.exit(DISK_FAILED)
