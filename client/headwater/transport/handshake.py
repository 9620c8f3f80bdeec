"""The handshake: hello, then SCRAM-SHA-256 if the server requires a user (RFC 5802, RFC 7677).

The password is never sent. The server also proves that it knows the verifier of the user, so a
false server is detected before any request is sent to it.
"""

import importlib.metadata
from typing import Any, Final

import scramp

from headwater.errors import AuthenticationFailed, InvalidArgument, ProtocolError
from headwater.transport.address import Address
from headwater.transport.connection import Connection
from headwater_protocol.limits import PROTOCOL_VERSION

MECHANISM: Final = "SCRAM-SHA-256"

ITERATIONS_DEFAULT: Final = 15_000
"""Rounds of PBKDF2 for a new password: about 4 ms for each guess, and for each connection."""


def verifier(
    password: str, iterations: int = ITERATIONS_DEFAULT
) -> tuple[bytes, int, bytes, bytes]:
    """What a server stores instead of a password: salt, iterations, stored key, server key.

    Raises:
        InvalidArgument: the password has characters that SCRAM does not allow (RFC 4013).
    """
    mechanism = scramp.ScramMechanism(MECHANISM)
    try:
        salt, stored_key, server_key, iterations = mechanism.make_auth_info(
            password, iteration_count=iterations
        )
    except scramp.ScramException as error:
        raise InvalidArgument(f"password: {error}") from error
    return salt, iterations, stored_key, server_key


def default_client_name() -> str:
    """The name of this client in the server's log."""
    try:
        return f"headwater-python {importlib.metadata.version('headwater')}"
    except importlib.metadata.PackageNotFoundError:
        return "headwater-python"


async def greet(connection: Connection, address: Address, client_name: str) -> None:
    """Say hello, and authenticate if the server requires it.

    Raises:
        AuthenticationFailed: the server requires a user and none was given; or the user or the
            password is wrong; or the server does not know the user's verifier.
        ProtocolError: the server speaks another version of the protocol.
    """
    version, _, _, mechanisms, *_ = await connection.ask("hello", PROTOCOL_VERSION, client_name)
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"{connection.name} speaks version {version} of the protocol, this client speaks "
            f"{PROTOCOL_VERSION}"
        )
    if not mechanisms:
        return
    if address.user is None:
        raise AuthenticationFailed(
            f"{connection.name} requires a user and password: headwater://user:password@host"
        )
    if MECHANISM not in mechanisms:
        raise AuthenticationFailed(
            f"{connection.name} offers {', '.join(mechanisms)}; this client supports {MECHANISM}"
        )
    await _authenticate(connection, address.user, address.password or "")


async def _authenticate(connection: Connection, user: str, password: str) -> None:
    try:
        client = scramp.ScramClient([MECHANISM], user, password)
        answer = await _step(connection, client.get_client_first())
        client.set_server_first(answer)
        answer = await _step(connection, client.get_client_final())
        client.set_server_final(answer)
    except scramp.ScramException as error:
        raise AuthenticationFailed(f"{connection.name}: {error}") from error


async def _step(connection: Connection, message: str) -> str:
    payload: Any = await connection.ask("authenticate", MECHANISM, message.encode())
    match payload:
        case [bool(), bytes(answer)]:
            return answer.decode(errors="replace")
        case _:
            raise ProtocolError(
                f"{connection.name}: an answer to authenticate that is not of its form"
            )
