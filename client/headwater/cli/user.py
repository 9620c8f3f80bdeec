"""`headwater user` and `headwater role`: the users who may connect, and what they may do.

With --data it works on the data directory of a stopped server. For that it uses the entry point
"users" of the group "headwater.offline", which the server's package offers: a module with
add(data, name, password), set(data, name, password), remove(data, name), list(data),
set_rights(data, name, grants, roles, grant=bool) and rights(data, name).
"""

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
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
    """Add, change, list and remove users, and say what they may do.

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
@click.option(
    "--end-connections",
    is_flag=True,
    help="Also end the user's open connections, as after a password was stolen.",
)
@click.argument("name")
def passwd(
    connector: Connector,
    data: str | None,
    password_stdin: bool,
    end_connections: bool,
    name: str,
) -> None:
    """Change a user's password. It holds for later log-ins, and open connections go on."""
    password = _new_password(password_stdin)
    if data is not None:
        _offline().set(data, name, password)
    else:
        with connector.connect() as db:
            db.set_password(name, password)
            if end_connections:
                ended = db.connections.close_user(name)
                click.echo(f"{ended} connections of {name} closed")
    click.echo(f"password of {name} changed")


_roles = click.option("--role", "roles", multiple=True, help="A role. May be given repeatedly.")
_grants = click.argument("grants", nargs=-1, metavar="[GRANT]...")


@user.command()
@_options
@_roles
@click.argument("name")
@_grants
def grant(
    connector: Connector,
    data: str | None,
    roles: tuple[str, ...],
    name: str,
    grants: tuple[str, ...],
) -> None:
    """Give rights and roles to a user. From then on, it may do only what was given to it.

    \b
    A GRANT is, for example:
      read:keys                 all keys             write:keys:orders   keys that begin so
      read:streams              all streams          append:stream:cart-7
      manage:category:order     truncate, delete     erase:prefix:order-2026
      group:mailer              a consumer group     group               all of them
      backup                    make backups         admin               everything
    """  # noqa: D301 - click wants the character
    _change("grant", connector, data, name, grants, roles)
    click.echo(f"rights of {name} changed")


@user.command()
@_options
@_roles
@click.argument("name")
@_grants
def revoke(
    connector: Connector,
    data: str | None,
    roles: tuple[str, ...],
    name: str,
    grants: tuple[str, ...],
) -> None:
    """Take rights and roles from a user, each as it was given."""
    _change("revoke", connector, data, name, grants, roles)
    click.echo(f"rights of {name} changed")


def _change(
    what: str,
    connector: Connector,
    data: str | None,
    name: str,
    grants: tuple[str, ...],
    roles: tuple[str, ...],
) -> None:
    if not (grants or roles):
        raise click.UsageError("name a GRANT or a --role")
    if data is not None:
        _offline().set_rights(data, name, grants, roles, grant=what == "grant")
        return
    with connector.connect() as db:
        if what == "grant":
            db.rights.grant(name, *grants, roles=roles)
        else:
            db.rights.revoke(name, *grants, roles=roles)


@user.command()
@connection_options
@click.argument("name")
@click.option(
    "--request-time",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long a request may take; without it, as the server's setting says.",
)
def limit(connector: Connector, name: str, request_time: float | None) -> None:
    """Set how long a request of a user may take. One that takes longer is refused."""
    with connector.connect() as db:
        db.rights.limit(name, request_time=request_time)
    click.echo(f"limit of {name} set")


@user.command("show")
@_options
@json_option
@click.argument("name", required=False)
def show_(connector: Connector, data: str | None, name: str | None, as_json: bool) -> None:
    """Show the roles and rights of a user; without a NAME, of the user who asks."""
    roles: Sequence[str]
    grants: Sequence[str]
    request_time: float | None = None
    if data is not None:
        if name is None:
            raise click.UsageError("--data needs a NAME")
        restricted, roles, grants = _offline().rights(data, name)
    else:
        with connector.connect() as db:
            found = db.rights.mine() if name is None else db.rights.of(name)
        restricted, roles, grants = found.restricted, found.roles, list(map(str, found.grants))
        request_time = found.request_time
    rows = [
        *({"kind": "role", "name": role} for role in roles),
        *({"kind": "grant", "name": grant} for grant in grants),
    ]
    if not restricted:
        rows = [{"kind": "everything", "name": ""}]
    if request_time is not None:
        rows.append({"kind": "request time", "name": f"{request_time:g} s"})
    show(("kind", "name"), rows, as_json=as_json)


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


@click.group()
def role() -> None:
    """Define, list and remove roles.

    Every database has the roles reader, writer and admin.
    """


@role.command("set")
@connection_options
@click.argument("name")
@click.argument("grants", nargs=-1, required=True, metavar="GRANT...")
def set_role(connector: Connector, name: str, grants: tuple[str, ...]) -> None:
    """Define a role, or replace its grants. `headwater user grant --help` shows what a GRANT is."""
    with connector.connect() as db:
        db.rights.set_role(name, *grants)
    click.echo(f"role {name} set")


@role.command("show")
@connection_options
@json_option
@click.argument("name")
def show_role(connector: Connector, name: str, as_json: bool) -> None:
    """Show the grants of a role."""
    with connector.connect() as db:
        roles = db.rights.roles()
    if name not in roles:
        raise click.ClickException(f"there is no role {name!r}")
    show(("grant",), ({"grant": str(each)} for each in roles[name]), as_json=as_json)


@role.command("list")
@connection_options
@json_option
def list_roles(connector: Connector, as_json: bool) -> None:
    """List the roles with their grants."""
    with connector.connect() as db:
        roles = db.rights.roles()
    rows = (
        {"role": name, "grants": list(map(str, grants)) if as_json else " ".join(map(str, grants))}
        for name, grants in roles.items()
    )
    show(("role", "grants"), rows, as_json=as_json)


@role.command("remove")
@connection_options
@yes_option
@click.argument("name")
def remove_role(connector: Connector, name: str, yes: bool) -> None:
    """Remove a role that no user has."""
    ask(f"Remove role {name}?", yes=yes)
    with connector.connect() as db:
        db.rights.remove_role(name)
    click.echo(f"role {name} removed")


@click.command()
@connection_options
@json_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, help="How many, at most.")
def audit(connector: Connector, as_json: bool, limit: int) -> None:
    """Show the newest records of the audit log: log-ins, refusals, changes of users, erasures."""
    with connector.connect() as db:
        records = db.rights.audit(limit)
    rows = (
        {
            "time": record.time.isoformat(),
            "event": record.event,
            "user": record.user or "",
            "address": record.address,
            "details": record.details
            if as_json
            else " ".join(f"{name}={value}" for name, value in record.details.items()),
        }
        for record in records
    )
    show(("time", "event", "user", "address", "details"), rows, as_json=as_json)
