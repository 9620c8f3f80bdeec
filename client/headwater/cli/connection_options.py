"""Options of the commands that connect to a server.

A setting comes from its flag; without a flag from the environment (HEADWATER_URL and so on); then
from the TOML file that --config or HEADWATER_CONFIG names; and otherwise from its default:

    url = "headwaters://db.example.org"         for every command
    ca-file = "/etc/ssl/example.pem"

    [dump]                                      for one command
    output = "/backup/today.jsonl"

Unknown settings at the top of the file are ignored, because the file may also have the settings of
a server.
"""

import functools
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from headwater.blocking.database import BlockingDatabase
from headwater.codecs.codec import Codec
from headwater.connecting import connect, connect_blocking
from headwater.database import Database
from headwater.errors import InvalidArgument
from headwater_protocol.address import Addresses, parse_addresses
from headwater_protocol.limits import PORT_DEFAULT

F = TypeVar("F", bound=Callable[..., Any])


class Connector:
    """The options of a connection: where to connect, and as which user."""

    def __init__(
        self,
        url: str,
        user: str | None,
        password: str | None,
        ca_file: str | None,
        cert_file: str | None,
        key_file: str | None,
        timeout: float,
    ) -> None:
        self.url = url
        self._options: dict[str, Any] = {
            "user": user,
            "password": password,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "connect_timeout": timeout,
            "request_timeout": timeout,
            "retry_timeout": timeout,
            # Whoever types a command wants to know at once that no server is there.
            "wait_for_server": False,
        }

    def connect(
        self,
        *,
        codec: Codec | None = None,
        answer_timeout: float | None = None,
        at_leader: bool = False,
    ) -> BlockingDatabase:
        """Make the database. It connects when the block is entered.

        Args:
            codec: of values, event data and states.
            answer_timeout: seconds to wait for an answer, instead of --timeout.
            at_leader: of several nodes, read at the leader, whatever the URL says.
        """
        options = dict(self._options)
        if at_leader and self.addresses().read is not None:
            options["read"] = "leader"
        if answer_timeout is not None:
            options["request_timeout"] = answer_timeout
        try:
            return connect_blocking(self.url, codec=codec, **options)
        except InvalidArgument as error:
            raise click.UsageError(str(error)) from error

    def addresses(self) -> Addresses:
        """The addresses in the URL."""
        names = ("user", "password", "ca_file", "cert_file", "key_file")
        try:
            return parse_addresses(self.url, **{name: self._options[name] for name in names})
        except InvalidArgument as error:
            raise click.UsageError(str(error)) from error

    def connect_each(self) -> list[BlockingDatabase]:
        """Make a database for each address of the URL, which asks that node alone."""
        addresses = self.addresses()
        options = replace(self.connect().options, nodes=(), read=None)
        return [BlockingDatabase(address, options) for address in addresses.nodes]

    def connect_async(
        self, *, codec: Codec | None = None, user: str | None = None, password: str | None = None
    ) -> Database:
        """Make the database for an event loop.

        Args:
            codec: of values, event data and states.
            user, password: instead of those of the options and the URL.
        """
        options = dict(self._options)
        if user is not None:
            options |= {"user": user, "password": password}
        try:
            return connect(self.url, codec=codec, **options)
        except InvalidArgument as error:
            raise click.UsageError(str(error)) from error


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Use the settings of the file as defaults of the command."""
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from error
    known = {option.opts[-1].removeprefix("--"): option.name for option in ctx.command.params}
    own = settings.get(ctx.command.name or "", {})
    if not isinstance(own, dict):
        raise click.BadParameter(f"{path}: {ctx.command.name} is not a table", ctx, param)
    for name in own:
        if name not in known:
            raise click.BadParameter(
                f"{path}: [{ctx.command.name}] has an unknown setting {name!r}; known are "
                f"{', '.join(sorted(known))}",
                ctx,
                param,
            )
    defaults = {
        known[name]: value
        for name, value in {**settings, **own}.items()
        if name in known and not isinstance(value, dict)
    }
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


_OPTIONS: Final = (
    click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="HEADWATER_CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="A TOML file with settings, which have the names of the options.",
    ),
    click.option(
        "--url",
        default=f"headwater://localhost:{PORT_DEFAULT}",
        envvar="HEADWATER_URL",
        show_envvar=True,
        help="The server: headwater://, headwaters:// or headwater+unix://. Several nodes: "
        "headwater://a,b,c/?read=leader, nearest or follower.",
    ),
    click.option(
        "--user",
        envvar="HEADWATER_USER",
        show_envvar=True,
        help="The user, if the URL does not name one.",
    ),
    click.option(
        "--password",
        envvar="HEADWATER_PASSWORD",
        show_envvar=True,
        help="The password. Other users of this machine can see flags; use the variable.",
    ),
    click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="HEADWATER_CA_FILE",
        show_envvar=True,
        help="A PEM file of certificates to trust, in addition to those of the system.",
    ),
    click.option(
        "--cert-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="HEADWATER_CERT_FILE",
        show_envvar=True,
        help="A PEM file with a certificate of the user, for servers that accept it.",
    ),
    click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="HEADWATER_KEY_FILE",
        show_envvar=True,
        help="The key of that certificate, if it is in another file.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        envvar="HEADWATER_TIMEOUT",
        show_envvar=True,
        help="Seconds to wait for the server.",
    ),
)

_NAMES: Final = ("url", "user", "password", "ca_file", "cert_file", "key_file", "timeout")


def connection_options(command: F) -> F:
    """Add the options of a connection to *command*, and pass them as `connector`."""

    @functools.wraps(command)
    def called(*args: Any, **options: Any) -> Any:
        connector = Connector(*(options.pop(name) for name in _NAMES))
        return command(*args, connector=connector, **options)

    for option in reversed(_OPTIONS):
        called = option(called)
    return called  # type: ignore[return-value]
