"""From the argument of a data store or broker to an open database."""

from contextlib import AsyncExitStack
from typing import Any

import headwater


async def connected(
    database: str | headwater.Database, options: dict[str, Any], exit_stack: AsyncExitStack
) -> headwater.Database:
    """An open database: the given one, or one that is closed with *exit_stack*."""
    if isinstance(database, headwater.Database):
        return database
    connecting = {"client_name": "apscheduler"} | options
    return await exit_stack.enter_async_context(headwater.connect(database, **connecting))
