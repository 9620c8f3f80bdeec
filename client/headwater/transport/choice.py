"""Chooses the runtime for the event loop that runs the caller."""

import sniffio

from headwater.errors import InvalidArgument
from headwater.transport.runtime import Runtime


def running_runtime() -> Runtime:
    """The runtime of the event loop that runs the caller.

    Raises:
        InvalidArgument: the client does not support this event loop, or there is none.
    """
    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        library = "none"
    if library == "trio":
        from headwater.transport.trio_runtime import TrioRuntime

        return TrioRuntime()
    if library == "asyncio":
        from headwater.transport.asyncio_runtime import AsyncioRuntime

        return AsyncioRuntime()
    raise InvalidArgument(
        f"connect() needs trio or asyncio, not {library}; without an event loop use "
        "connect_blocking()"
    )
