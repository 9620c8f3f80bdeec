"""The command line: `headwater COMMAND`.

Commands are found by the entry point group "headwater.commands". So the commands of the server are
available when it is installed, and this package does not import it. An error ends with one line and
exit code 1; wrong usage ends with exit code 2.
"""

import importlib.metadata
import os
import sys
from typing import Any, Final

import click

from headwater.errors import HeadwaterError

GROUP: Final = "headwater.commands"


class Commands(click.Group):
    """The commands of all installed packages, loaded when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        point = _entry_points().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except ModuleNotFoundError as error:
            return _not_installed(cmd_name, str(error.name))
        assert isinstance(command, click.Command), f"{point.value} is no command"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HeadwaterError as error:
            raise click.ClickException(f"{error}") from error
        except BrokenPipeError:
            # The reader of the output has closed the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            raise click.ClickException(f"{error}") from error


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _not_installed(name: str, module: str) -> click.Command:
    @click.command(name, short_help=f'Needs {module}: pip install "headwater[server]".')
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise click.ClickException(
            f"headwater {name} needs {module}, which is not installed: "
            'pip install "headwater[server]"'
        )

    command.context_settings = {"ignore_unknown_options": True, "help_option_names": []}
    return command


@click.command(
    cls=Commands,
    context_settings={
        "auto_envvar_prefix": "HEADWATER",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(package_name="headwater", message="headwater %(version)s")
def main() -> None:
    """Headwater, a database for event-sourced applications."""


__all__ = ["main"]
