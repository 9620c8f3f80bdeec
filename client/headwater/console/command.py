"""`headwater console`: a web page to look into a database."""

import ipaddress
from collections.abc import Callable
from typing import Any

import click
import uvicorn

from headwater.aggregates.repository import Repository
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.named import named
from headwater.codecs.codec import MsgpackCodec, RawCodec
from headwater.console.app import Console
from headwater.console.guard import allowed_hosts
from headwater.console.visits import Settings
from headwater.database import Database

PORT = 4380


@click.command()
@connection_options
@click.option(
    "--listen",
    default=f"127.0.0.1:{PORT}",
    help="HOST:PORT of the pages. Port 0: any that is free.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name under which browsers reach the console, for example behind a proxy. Repeatable.",
)
@click.option(
    "--aggregate",
    "aggregates",
    multiple=True,
    metavar="CATEGORY=MODULE:ATTRIBUTE",
    help="The headwater.Repository of a category, to show the state of its streams. Repeatable.",
)
@click.option(
    "--app",
    metavar="MODULE:FUNCTION",
    help="A function that defines the application's projections on a database, to retry, skip and "
    "rebuild.",
)
@click.option("--codec", "codec_place", help="module:attribute of the application's codec.")
def console(
    connector: Connector,
    listen: str,
    hosts: tuple[str, ...],
    aggregates: tuple[str, ...],
    app: str | None,
    codec_place: str | None,
) -> None:
    """Serve a web page that shows a database at any moment of its history.

    If the URL names a user, everybody who reaches the page has the rights of this user. Otherwise,
    if the server has users, each person logs in.
    """
    host, port = _listen(listen)
    settings = Settings(
        server=str(connector.connect_async().address),
        codec=MsgpackCodec() if codec_place is None else named(codec_place),
        folds=dict(_fold(each) for each in aggregates),
        define=None if app is None else _function(app),
        handlers=app or "",
    )

    def connect(user: str | None, password: str | None) -> Database:
        return connector.connect_async(codec=RawCodec(), user=user, password=password)

    _serve(connect, settings, host, port, hosts)


def _serve(
    connect: Callable[[str | None, str | None], Database],
    settings: Settings,
    host: str,
    port: int,
    hosts: tuple[str, ...],
) -> None:
    import asyncio
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        port = listener.getsockname()[1]
        pages = Console(connect, settings, allowed_hosts(host, port, hosts), port)
        config = uvicorn.Config(
            pages.asgi,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Live pages never end by themselves.
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)

        async def run() -> None:
            async with pages.running():
                shown = f"[{host}]" if ":" in host else host
                if not _is_loopback(host):
                    click.echo(
                        f"warning: the console listens on {host}, which other machines can reach, "
                        "and it speaks plain HTTP: put a proxy with TLS in front of it",
                        err=True,
                    )
                    if not pages.sessions.by_login:
                        click.echo(
                            "warning: nobody logs in: whoever reaches the console has the rights "
                            "of its connection",
                            err=True,
                        )
                click.echo(f"console of {settings.server} at http://{shown}:{port}/")
                await server.serve(sockets=[listener])

        asyncio.run(run())


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"--listen: {text!r}: expected HOST:PORT")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fold(text: str) -> tuple[str, Repository[Any]]:
    category, equals, place = text.partition("=")
    if not equals or not category:
        raise click.BadParameter(f"--aggregate: {text!r}: expected CATEGORY=MODULE:ATTRIBUTE")
    repository = named(place)
    if not isinstance(repository, Repository):
        raise click.BadParameter(
            f"--aggregate: {place} is not a headwater.Repository but a {type(repository).__name__}"
        )
    return category, repository


def _function(place: str) -> Callable[[Database], Any]:
    found = named(place)
    if not callable(found):
        raise click.BadParameter(f"--app: {place} is not a function")
    function: Callable[[Database], Any] = found
    return function
