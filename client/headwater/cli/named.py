"""Objects of the application that a command is given by name, as module:attribute."""

import importlib
import os
import sys
from typing import Any

import click


def named(place: str) -> Any:
    """The object that "module:attribute" names.

    Raises:
        click.BadParameter: there is none, or its module cannot be imported.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise click.BadParameter(
            f"{place!r}: expected module:attribute, for example accounts:account"
        )
    # Look for the module in the current directory too, like `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise click.BadParameter(f"{place}: {module_name} needs {error.name}") from error
        raise click.BadParameter(f"{place}: there is no module {error.name}") from error
    except Exception as error:
        raise click.BadParameter(
            f"{place}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise click.BadParameter(f"{place}: {module_name} has no {attribute}")
        found = getattr(found, name)
    return found
