"""Adds the package `headwater_protocol` to the client's wheel.

It lies beside the client in the checkout. Only sources are taken: extension modules that were built
in the checkout work on this machine only.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class AddProtocol(BuildHookInterface[Any]):
    """Hatchling's hook, which runs before the wheel is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Name the files of the protocol and their places in the wheel."""
        top = Path(self.root).parent / "protocol"
        for file in sorted((top / "headwater_protocol").rglob("*")):
            if file.suffix == ".py" or file.name == "py.typed":
                build_data["force_include"][str(file)] = str(file.relative_to(top))
