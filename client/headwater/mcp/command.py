"""The command `headwater mcp`."""

import asyncio

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.mcp.server import server_of


@click.command("mcp")
@connection_options
def mcp(connector: Connector) -> None:
    """Let agents and models read a database, over the Model Context Protocol.

    It speaks on standard input and output, as programs that start such servers expect. All tools
    only read, and with the rights of the given user: make one for this.

    Needs the package mcp: pip install "headwater[mcp]".
    """
    # A server that is not there is better said now than at the first question.
    with connector.connect() as db:
        db.ping()
    asyncio.run(server_of(connector).run_stdio_async())
