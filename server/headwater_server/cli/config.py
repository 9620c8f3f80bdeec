"""`headwater init` and `headwater config`: the file of settings."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from headwater_protocol.address import parse_address
from headwater_protocol.errors import HeadwaterError
from headwater_server.cli.failures import one_line
from headwater_server.cli.options import settings_from
from headwater_server.cli.serve import serve
from headwater_server.cli.settings_file import as_toml, template
from headwater_server.net.drivers.listening import CannotListen
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.settings import ServerSettings

_SOURCES: Final = {
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="headwater.toml")
@click.option(
    "--data",
    default="/var/lib/headwater",
    show_default=True,
    metavar="DIR",
    help="The data directory to write into the file.",
)
def init(file: Path, data: str) -> None:
    """Write a FILE with all settings of the server, commented.

    Change it, and start the server with `headwater serve --config FILE`. An existing file is not
    overwritten. "-" writes to standard output.
    """
    text = template(data)
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    with one_line(), file.open("x") as written:
        written.write(text)
    click.echo(f"{file}: written; start the server with: headwater serve --config {file}")


@click.group()
def config() -> None:
    """Work on the settings of the server."""


@config.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def check(file: Path | None) -> None:
    """Check the settings that `headwater serve --config FILE` would have.

    It shows those that are not the defaults, and where they are from. The environment variables
    count as for `serve`. Exit status 1: the server could not start.
    """
    arguments = [] if file is None else ["--config", str(file)]
    with serve.make_context("serve", arguments) as ctx:
        settings = settings_from(ctx.params)
        given = {
            str(option.name): (option.opts[0].removeprefix("--"), source)
            for option in serve.params
            if (source := ctx.get_parameter_source(str(option.name))) in _SOURCES
        }
        for name, (setting, source) in given.items():
            if name != "config":
                value = '"…"' if "password" in setting else _shown(ctx.params[name])
                click.echo(f"{setting} = {value}  # {_SOURCES[source]}")
    problems = list(problems_of(settings))
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("The settings are in order.")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return as_toml([str(each) for each in value])
    if isinstance(value, int | float):
        return as_toml(value)
    text = str(value)
    if "://" in text:
        # A URL may have a password.
        with contextlib.suppress(HeadwaterError):
            text = str(parse_address(text))
    return as_toml(text)


def problems_of(settings: ServerSettings) -> Iterator[str]:
    """Why a server could not start with the settings, or not do what they say."""
    data = Path(settings.data)
    if data.exists() and not data.is_dir():
        yield f"data: {data} is no directory"
    elif data.is_dir() and not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        yield f"data: this user may not write to {data}"
    for name, place in (
        ("backup-dir", settings.backup_directory),
        ("archive", settings.archive_directory),
    ):
        if place is not None:
            yield from _directory(name, Path(place))
    for name, place in (
        ("unix", settings.unix),
        ("audit-log", settings.audit_log),
        ("ready-file", settings.ready_file),
    ):
        if place is not None:
            yield from _directory(name, Path(place).absolute().parent)
    if settings.tls_certificate is not None:
        try:
            Certificate(
                settings.tls_certificate,
                settings.tls_key,
                client_authority=settings.tls_client_ca,
                login=settings.tls_client_login,
            )
        except CannotListen as error:
            yield str(error)
    for name, url in (("follow", settings.follow), ("advertise", settings.advertise)):
        if url is not None:
            try:
                parse_address(url)
            except HeadwaterError as error:
                yield f"{name}: {error.message}"


def _directory(name: str, path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield f"{name}: there is no directory {path}"
    elif not os.access(path, os.W_OK | os.X_OK):
        yield f"{name}: this user may not write to {path}"
