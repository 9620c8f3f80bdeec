"""How a command fails: one line on standard error, and exit status 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from headwater_protocol.errors import HeadwaterError


@contextmanager
def one_line() -> Iterator[None]:
    """Print errors that the user can act on as one line on standard error, without a traceback."""
    try:
        yield
    except HeadwaterError as error:
        raise click.ClickException(error.message) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
