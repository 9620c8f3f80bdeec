"""The application whose projections a command runs: where it defines them, and with which codec."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector
from headwater.cli.named import named
from headwater.database import Database

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def handler_options(command: F) -> F:
    """Add the options that say where the handlers are."""
    for option in (
        click.option(
            "--blocking", is_flag=True, help="The handlers are `def`, and not `async def`."
        ),
        click.option("--codec", "codec_place", help="module:attribute of the application's codec."),
        click.option(
            "--app",
            "app_place",
            required=True,
            metavar="MODULE:FUNCTION",
            help="A function that takes the database and defines its projections on it.",
        ),
    ):
        command = option(command)
    return command


class Application:
    """A database on which the application has defined its projections."""

    def __init__(
        self, connector: Connector, app_place: str, codec_place: str | None, blocking: bool
    ) -> None:
        self._connector = connector
        self._define = named(app_place)
        self._codec = None if codec_place is None else named(codec_place)
        self._blocking = blocking
        if not callable(self._define):
            raise click.BadParameter(f"{app_place} is not a function")

    def call(
        self,
        blocking: Callable[[BlockingDatabase], T],
        waiting: Callable[[Database], Awaitable[T]],
    ) -> T:
        """Call one of the two with the connected database."""
        if not self._blocking:
            return asyncio.run(self._wait(waiting))
        with self._connector.connect(codec=self._codec) as db:
            self._define(db)
            return blocking(db)

    async def _wait(self, waiting: Callable[[Database], Awaitable[T]]) -> T:
        async with self._connector.connect_async(codec=self._codec) as db:
            self._define(db)
            return await waiting(db)
