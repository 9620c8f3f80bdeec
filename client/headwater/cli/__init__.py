"""The command line: `headwater COMMAND`.

Commands are found by the entry point group "headwater.commands". So the commands of the server are
available when it is installed, and this package does not import it. An error is one line on
standard error; headwater_protocol.exit_codes has the exit statuses.
"""

import importlib.metadata
import io
import os
import sys
from typing import Any, Final

import click

from headwater.errors import HeadwaterError
from headwater_protocol import exit_codes
from headwater_protocol.distribution import installed_version

GROUP: Final = "headwater.commands"

TRACEBACK: Final = "HEADWATER_TRACEBACK"
"""The environment variable with which an unexpected error shows where it comes from."""


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
            return _not_installed(cmd_name, str(error.name), _extra(point))
        except AttributeError:
            # The list of commands was written when another version was installed.
            return _not_installed(cmd_name, point.value, _extra(point))
        assert isinstance(command, click.Command), f"{point.value} is no command"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a name gets its escapes, not an error.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except HeadwaterError as error:
            raise click.ClickException(f"{error}") from error
        except BrokenPipeError:
            # The reader of the output has closed the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(exit_codes.FAILED)
        except OSError as error:
            raise click.ClickException(f"{error}") from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(exit_codes.INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, click.ClickException, EOFError):
            raise
        except Exception as error:
            # A server's log needs the place of the error. At a prompt it only hides the message.
            if ctx.invoked_subcommand == "serve" or os.environ.get(TRACEBACK):
                raise
            raise click.ClickException(
                f"{type(error).__name__}: {error} (unexpected; {TRACEBACK}=1 shows where)"
            ) from error


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _extra(point: importlib.metadata.EntryPoint) -> str:
    """The extra with which a command works."""
    for room in ("console", "mcp"):
        if point.module.startswith(f"headwater.{room}"):
            return room
    return "server"


def _not_installed(name: str, module: str, extra: str) -> click.Command:
    @click.command(name, short_help=f'Needs {module}: pip install "headwater[{extra}]".')
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise click.ClickException(
            f"headwater {name} needs {module}, which is not installed: "
            f'pip install "headwater[{extra}]"'
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
    epilog="Exit status: "
    + "; ".join(f"{status}: {meaning}" for status, meaning in exit_codes.MEANINGS.items())
    + ".",
)
@click.version_option(installed_version() or "(not installed)", message="headwater %(version)s")
def main() -> None:
    """Headwater, a database for event-sourced applications."""


__all__ = ["main"]
