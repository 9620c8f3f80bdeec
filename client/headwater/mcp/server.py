"""The tools as a server of the Model Context Protocol."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from headwater.cli.connection_options import Connector
from headwater.codecs.codec import RawCodec
from headwater.errors import HeadwaterError
from headwater.mcp.tools import Tools
from headwater_protocol.distribution import installed_version

INSTRUCTIONS: Final = """\
A Headwater database: keys with values, and streams of events, in one order of commits. A stream has
what happened to one entity, such as "order-17"; what stands before the first "-" is its category.
Events never change. Keys can be read as they were at any commit or time of the history window.
Begin with `overview`. All tools only read, with the rights of one user.
Types that JSON lacks have a tag, such as {"$datetime": "2013-01-31T12:00:00+00:00"}; use the same
in keys."""

NAMES: Final = (
    "overview",
    "list_streams",
    "read_stream",
    "read_events",
    "find_event",
    "get_key",
    "list_keys",
    "key_history",
    "stream_history",
    "list_projections",
    "list_groups",
)

Tool = Callable[..., Awaitable[dict[str, Any]]]


def server_of(connector: Connector) -> MCPServer[None]:
    """A server that connects when its first client does."""
    tools: list[Tools] = []

    @asynccontextmanager
    async def lifespan(server: MCPServer[None]) -> AsyncIterator[None]:
        del server
        async with (
            connector.connect_async(codec=RawCodec()) as data,
            connector.connect_async() as decoded,
        ):
            tools.append(Tools(data, decoded))
            try:
                yield
            finally:
                tools.clear()

    server: MCPServer[None] = MCPServer(
        "headwater",
        title="Headwater",
        instructions=INSTRUCTIONS,
        version=installed_version() or "",
        lifespan=lifespan,
        log_level="WARNING",
    )
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
    for name in NAMES:
        server.add_tool(
            _tool(name, lambda name=name: getattr(tools[0], name)),  # type: ignore[misc]
            name=name,
            description=inspect.getdoc(getattr(Tools, name)),
            annotations=reads,
        )
    return server


def _tool(name: str, bound: Callable[[], Tool]) -> Tool:
    """A function with the arguments of a tool. Its errors are reported to the model."""
    method = getattr(Tools, name)

    @functools.wraps(method)
    async def call(*arguments: Any, **options: Any) -> dict[str, Any]:
        try:
            return await bound()(*arguments, **options)
        except HeadwaterError as error:
            raise ToolError(str(error)) from error

    signature = inspect.signature(method, eval_str=True)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
