"""`headwater user`: the users who may connect.

With --data it works on the data directory of a stopped server. For that it uses the entry point
"users" of the group "headwater.offline", which the server's package offers: a module with
add(data, name, password), set(data, name, password), remove(data, name) and list(data).
"""

import importlib.metadata
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import ask, json_option, show, yes_option

OFFLINE: Final = "headwater.offline"


def _options(command: Callable[..., None], *, exists: bool = True) -> Callable[..., None]:
    with_data: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
        "--data",
        type=click.Path(exists=exists, file_okay=False),
        help="The data directory of a stopped server, instead of --url."
        + ("" if exists else " It is created if it does not exist."),
    )
    return with_data(connection_options(command))


def _options_before_the_first_start(command: Callable[..., None]) -> Callable[..., None]:
    # A server that other machines can reach does not start without a user, so the first user can be
    # added before the first start.
    return _options(command, exists=False)


def _new_password(from_stdin: bool) -> str:
    password: str
    if from_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if not password:
        raise click.UsageError("the password is empty")
    return password


_password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the new password from standard input."
)


def _offline() -> Any:
    for point in importlib.metadata.entry_points(group=OFFLINE, name="users"):
        return point.load()
    raise click.ClickException('--data needs the server: pip install "headwater[server]"')


@click.group()
def user() -> None:
    """Add, change, list and remove users.

    If there are none, the server asks nobody for a password.
    """


@user.command()
@_options_before_the_first_start
@_password_stdin
@click.argument("name")
def add(connector: Connector, data: str | None, password_stdin: bool, name: str) -> None:
    """Add a user. The command asks for the password."""
    password = _new_password(password_stdin)
    if data is not None:
        _offline().add(data, name, password)
    else:
        with connector.connect() as db:
            db.add_user(name, password)
    click.echo(f"user {name} added")


@user.command()
@_options
@_password_stdin
@click.argument("name")
def passwd(connector: Connector, data: str | None, password_stdin: bool, name: str) -> None:
    """Change a user's password."""
    password = _new_password(password_stdin)
    if data is not None:
        _offline().set(data, name, password)
    else:
        with connector.connect() as db:
            db.set_password(name, password)
    click.echo(f"password of {name} changed")


@user.command("list")
@_options
@json_option
def list_(connector: Connector, data: str | None, as_json: bool) -> None:
    """List the users."""
    if data is not None:
        names = _offline().list(data)
    else:
        with connector.connect() as db:
            names = db.users()
    show(("user",), ({"user": name} for name in names), as_json=as_json)


@user.command()
@_options
@yes_option
@click.argument("name")
def remove(connector: Connector, data: str | None, name: str, yes: bool) -> None:
    """Remove a user. A connection that the user has open ends."""
    ask(f"Remove user {name}?", yes=yes)
    if data is not None:
        _offline().remove(data, name)
    else:
        with connector.connect() as db:
            db.remove_user(name)
    click.echo(f"user {name} removed")
