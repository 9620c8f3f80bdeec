"""connect and connect_blocking: from a URL to a database."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from headwater.blocking.database import BlockingDatabase
from headwater.codecs.codec import Codec, MsgpackCodec
from headwater.database import Database
from headwater.errors import InvalidArgument
from headwater.transport.handshake import default_client_name
from headwater.transport.runtime import Options
from headwater.transport.tracing import Tracing
from headwater_protocol.address import Addresses, parse_addresses

ReadMode: TypeAlias = Literal["leader", "nearest", "follower"]
"""Where a client of several nodes reads."""


def connect(
    url: str = "headwater://localhost:4323",
    *,
    user: str | None = None,
    password: str | None = None,
    tls: bool | ssl.SSLContext | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    read: ReadMode | None = None,
    codec: Codec | None = None,
    connect_timeout: float = 10.0,
    request_timeout: float = 30.0,
    retry_timeout: float = 30.0,
    wait_for_server: bool = True,
    client_name: str | None = None,
    tracing: bool = False,
    open_stream: Callable[[], Awaitable[Any]] | None = None,
) -> Database:
    """Make a database for trio or asyncio: `async with headwater.connect(url) as db`.

    Args:
        url: headwater://user:password@host:port, headwaters:// for TLS, or
            headwater+unix:///path/of/the.sock; of several nodes headwater://a,b/?read=nearest.
        user, password: instead of those in the URL.
        tls: True: trust the certificates of the system and those of ca_file. Or an SSLContext.
        ca_file: a file of certificates to trust, in PEM.
        cert_file, key_file: a certificate of the user, instead of a password; its key, if apart.
        read: where to read, of several nodes. Instead of that in the URL.
        codec: of values, event data and states. The default is MsgpackCodec.
        connect_timeout: seconds to connect and authenticate.
        request_timeout: seconds to wait for an answer.
        retry_timeout: seconds to keep retrying where that is safe: connecting, reads and writes
            outside of a transaction, `run`, subscriptions and memberships. 0: fail at once.
        wait_for_server: whether entering the block waits up to retry_timeout, or fails at once.
        client_name: shown in the server's log.
        tracing: make spans of all requests with OpenTelemetry's API (`headwater[otel]`), and send
            the trace to the server.
        open_stream: on trio, a function that opens the stream of a connection instead of the
            address. Other event loops ignore it.

    Raises:
        InvalidArgument: the URL or an option is invalid.
        ConnectionLost: no server answered. Raised when the block is entered.
        AuthenticationFailed: the server refused the user. Raised when the block is entered.
    """
    addresses = parse_addresses(
        url,
        user=user,
        password=password,
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        read=read,
    )
    return Database(
        addresses.nodes[0],
        _options(
            addresses,
            codec,
            connect_timeout,
            request_timeout,
            retry_timeout,
            client_name,
            wait_for_server=wait_for_server,
            tracing=tracing,
            open_stream=open_stream,
        ),
    )


def connect_blocking(
    url: str = "headwater://localhost:4323",
    *,
    user: str | None = None,
    password: str | None = None,
    tls: bool | ssl.SSLContext | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    read: ReadMode | None = None,
    codec: Codec | None = None,
    connect_timeout: float = 10.0,
    request_timeout: float = 30.0,
    retry_timeout: float = 30.0,
    wait_for_server: bool = True,
    client_name: str | None = None,
    tracing: bool = False,
) -> BlockingDatabase:
    """Make a database without an event loop: `with headwater.connect_blocking(url) as db`.

    Arguments and errors are those of `connect`.
    """
    addresses = parse_addresses(
        url,
        user=user,
        password=password,
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        read=read,
    )
    return BlockingDatabase(
        addresses.nodes[0],
        _options(
            addresses,
            codec,
            connect_timeout,
            request_timeout,
            retry_timeout,
            client_name,
            wait_for_server=wait_for_server,
            tracing=tracing,
        ),
    )


def _options(
    addresses: Addresses,
    codec: Codec | None,
    connect_timeout: float,
    request_timeout: float,
    retry_timeout: float,
    client_name: str | None,
    *,
    wait_for_server: bool,
    tracing: bool,
    open_stream: Callable[[], Awaitable[Any]] | None = None,
) -> Options:
    for name, seconds in (
        ("connect_timeout", connect_timeout),
        ("request_timeout", request_timeout),
    ):
        if not _is_number(seconds) or not 0 < seconds < 1e9:
            raise InvalidArgument(f"{name}: {seconds!r}; it must be a number of seconds above 0")
    if not _is_number(retry_timeout) or not retry_timeout >= 0:
        raise InvalidArgument(f"retry_timeout: {retry_timeout!r}; the minimum is 0 seconds")
    if open_stream is not None and len(addresses.nodes) > 1:
        raise InvalidArgument(
            f"open_stream: it opens streams to one node, and the URL has {len(addresses.nodes)}"
        )
    return Options(
        codec=MsgpackCodec() if codec is None else codec,
        connect_timeout=connect_timeout,
        request_timeout=request_timeout,
        retry_timeout=retry_timeout,
        wait_for_server=wait_for_server,
        client_name=default_client_name() if client_name is None else client_name,
        tracing=Tracing() if tracing else None,
        nodes=() if addresses.read is None else addresses.nodes,
        read=addresses.read,
        open_stream=open_stream,
    )


def _is_number(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool)
