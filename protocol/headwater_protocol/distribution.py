"""The version of the installed package, whichever of the packages it is."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = ("headwater", "headwater-client")
"""The whole, and the client alone. Both have the protocol."""


def installed_version() -> str | None:
    """The version; None if a checkout runs without having been installed."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
