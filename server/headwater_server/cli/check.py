"""`headwater check`: read every byte of a data directory and say what is wrong, and where."""

import click

from headwater_server.cli.failures import one_line


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
def check(directory: str) -> None:
    """Read every byte of the data directory DIR, and change nothing.

    No server may be running on it. Exit status 0: it is whole. 1: something is wrong.
    """
