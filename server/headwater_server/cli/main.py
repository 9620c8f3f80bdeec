"""The server's own group of commands."""

import click

from headwater_server.cli.check import check
from headwater_server.cli.config import config, init
from headwater_server.cli.repair import repair
from headwater_server.cli.restore import restore
from headwater_server.cli.serve import serve


@click.group()
def main() -> None:
    """Headwater server: run it, check its files, repair them, restore a backup."""


main.add_command(serve)
main.add_command(check)
main.add_command(config)
main.add_command(init)
main.add_command(repair)
main.add_command(restore)
