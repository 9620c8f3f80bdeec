"""What the client's package takes from the project around it, so that it is written once.

- The version, the dependencies, the extras and the commands of pyproject.toml in the folder above,
  without those of the server.
- The package `headwater_protocol`, which lies beside the client. Only sources are taken: extension
  modules that were built in the checkout work on this machine only.
"""

import tomllib
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

COMMANDS: Final = "headwater.commands"

OF_THE_SERVER: Final = frozenset({"server", "cluster", "rivals", "docs"})
"""Extras that clients have no use for. So are those that need the extra `server`."""

NEEDS_A_SERVER: Final = frozenset({"demo"})
"""Commands of the client's code that start a server on the same machine."""


def taken_from(project: dict[str, Any]) -> dict[str, Any]:
    """The fields of the client's metadata that are the project's."""
    extras = project["optional-dependencies"]
    points = project["entry-points"][COMMANDS]
    return {
        "version": project["version"],
        "requires-python": project["requires-python"],
        "dependencies": project["dependencies"],
        "optional-dependencies": {
            name: wanted
            for name, wanted in extras.items()
            if name not in OF_THE_SERVER and not any(one.startswith("headwater") for one in wanted)
        },
        "scripts": project["scripts"],
        "entry-points": {
            COMMANDS: {
                name: place
                for name, place in points.items()
                if place.startswith("headwater.") and name not in NEEDS_A_SERVER
            }
        },
    }


class ProjectMetadata(MetadataHookInterface):
    """Hatchling's hook that completes the metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the project's fields."""
        file = Path(self.root).parent / "pyproject.toml"
        metadata.update(taken_from(tomllib.loads(file.read_text())["project"]))


class AddProtocol(BuildHookInterface[Any]):
    """Hatchling's hook that runs before the wheel is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Name the files of the protocol and their places in the wheel."""
        top = Path(self.root).parent / "protocol"
        for file in sorted((top / "headwater_protocol").rglob("*")):
            if file.suffix == ".py" or file.name == "py.typed":
                build_data["force_include"][str(file)] = str(file.relative_to(top))
