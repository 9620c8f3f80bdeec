"""Greeting a server: hello, and SCRAM-SHA-256 if it asks for a user (RFC 5802, RFC 7677).

The password does not travel, and the server proves that it knows the user's verifier too: a
server that only pretends to be ours is noticed before anything is asked of it.
"""

import importlib.metadata
from typing import Any, Final

import scramp

from headwater.errors import AuthenticationFailed, ProtocolError
from headwater.transport.address import Address
from headwater.transport.connection import Connection
from headwater_protocol.limits import PROTOCOL_VERSION

MECHANISM: Final = "SCRAM-SHA-256"

ITERATIONS_DEFAULT: Final = 15_000
"""Rounds of PBKDF2 for a new password: about 4 ms for each guess, and at each connection."""


def verifier(
    password: str, iterations: int = ITERATIONS_DEFAULT
) -> tuple[bytes, int, bytes, bytes]:
    """What a server keeps of a password: salt, iterations, stored key, server key."""
    salt, stored_key, server_key, iterations = scramp.ScramMechanism(MECHANISM).make_auth_info(
        password, iteration_count=iterations
    )
    return salt, iterations, stored_key, server_key


def default_client_name() -> str:
    """What this client calls itself in the server's log."""
    try:
        return f"headwater-python {importlib.metadata.version('headwater')}"
    except importlib.metadata.PackageNotFoundError:
        return "headwater-python"


async def greet(connection: Connection, address: Address, client_name: str) -> None:
    """Say hello, and authenticate if asked to.

    Raises:
        AuthenticationFailed: the server wants a user, and there is none, or another password;
            or the server does not know the user's verifier.
        ProtocolError: the server speaks another version.
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
            f"{connection.name} asks for a user and password: headwater://user:password@host"
        )
    if MECHANISM not in mechanisms:
        raise AuthenticationFailed(
            f"{connection.name} offers {', '.join(mechanisms)}; this client knows {MECHANISM}"
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
