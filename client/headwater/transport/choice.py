"""Choice of the runtime: the one of the event loop that runs the caller."""

import sniffio

from headwater.errors import InvalidArgument
from headwater.transport.runtime import Runtime


def running_runtime() -> Runtime:
    """The runtime of the event loop that runs the caller.

    Raises:
        InvalidArgument: it is none that the client knows.
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
        f"connect() works on trio and asyncio, not on {library}; without an event loop use "
        "connect_blocking()"
    )
