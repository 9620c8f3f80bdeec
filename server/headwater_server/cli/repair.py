"""`headwater repair`: make a damaged data directory usable again, keeping what is given up."""

import click

from headwater_server.cli.failures import one_line


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
def repair(directory: str) -> None:
    """Cut the data directory DIR back to what is sound, and keep a copy of the rest."""
