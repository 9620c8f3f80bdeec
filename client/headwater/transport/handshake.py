"""The handshake: hello, then SCRAM-SHA-256 if the server requires a user (RFC 5802, RFC 7677).

The password is never sent. The server also proves that it knows the verifier of the user, so a
false server is detected before any request is sent to it. Over TLS, the proofs of both are bound to
the server's certificate, so they are worth nothing to somebody in the middle who has another one.

Without a password, the certificate that the client has shown in TLS is used, if the server lets it.
"""

from typing import Any, Final

import scramp

from headwater.errors import AuthenticationFailed, ConnectionLost, InvalidArgument, ProtocolError
from headwater.transport.connection import Connection
from headwater_protocol.address import Address
from headwater_protocol.distribution import installed_version
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_protocol.mechanisms import (
    BINDING,
    EXTERNAL,
    SCRAM,
    SCRAM_PLUS,
    server_end_point,
)
from headwater_protocol.vocabulary.replication import NODE_FEATURE

ITERATIONS_DEFAULT: Final = 15_000
"""Rounds of PBKDF2 for a new password: about 4 ms for each guess, and for each connection."""


def verifier(
    password: str, iterations: int = ITERATIONS_DEFAULT
) -> tuple[bytes, int, bytes, bytes]:
    """What a server stores instead of a password: salt, iterations, stored key, server key.

    Raises:
        InvalidArgument: the password has characters that SCRAM does not allow (RFC 4013).
    """
    mechanism = scramp.ScramMechanism(SCRAM)
    try:
        salt, stored_key, server_key, iterations = mechanism.make_auth_info(
            password, iteration_count=iterations
        )
    except scramp.ScramException as error:
        raise InvalidArgument(f"password: {error}") from error
    return salt, iterations, stored_key, server_key


def default_client_name() -> str:
    """The name of this client in the server's log."""
    version = installed_version()
    return "headwater-python" if version is None else f"headwater-python {version}"


async def greet(connection: Connection, address: Address, client_name: str) -> None:
    """Say hello, and authenticate if the server requires it.

    Raises:
        AuthenticationFailed: the server requires a user and none was given; or the user or the
            password is wrong; or the server does not know the user's verifier.
        ProtocolError: the server speaks another version of the protocol.
        ConnectionLost: the connection has ended meanwhile.
    """
    try:
        version, _, _, mechanisms, *_ = await connection.ask(
            "hello", PROTOCOL_VERSION, client_name, [NODE_FEATURE]
        )
    except ConnectionLost as error:
        if connection.server_certificate is None or type(error) is not ConnectionLost:
            raise
        # In TLS 1.3 a client takes the handshake for done before the server has looked at its
        # certificate.
        raise ConnectionLost(
            f"{error.message}, right after the TLS handshake; a server that needs a certificate of "
            "the client does so (cert_file, key_file)"
        ) from error
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"{connection.name} speaks version {version} of the protocol, this client speaks "
            f"{PROTOCOL_VERSION}"
        )
    if not mechanisms:
        return
    if EXTERNAL in mechanisms and (address.password is None or mechanisms == [EXTERNAL]):
        await _step(connection, EXTERNAL, address.user or "")
        return
    if address.user is None:
        raise AuthenticationFailed(
            f"{connection.name} requires a user and password: headwater://user:password@host"
        )
    certificate = connection.server_certificate
    binding = None if certificate is None else server_end_point(certificate)
    usable = {SCRAM} if binding is None else {SCRAM, SCRAM_PLUS}
    chosen = [each for each in mechanisms if each in usable]
    if not chosen:
        raise AuthenticationFailed(
            f"{connection.name} offers {', '.join(mechanisms)}; this client supports "
            f"{', '.join(sorted(usable))} here"
        )
    await _authenticate(connection, chosen, binding, address.user, address.password or "")


async def _authenticate(
    connection: Connection, mechanisms: list[str], binding: bytes | None, user: str, password: str
) -> None:
    # If we can bind and the server does not offer it, we say so. A server that did offer it then
    # knows that somebody has taken it from the list.
    bound = None if binding is None else (BINDING, binding)
    try:
        client = scramp.ScramClient(mechanisms, user, password, bound)
        mechanism = client.mechanism_name
        answer = await _step(connection, mechanism, client.get_client_first())
        client.set_server_first(answer)
        answer = await _step(connection, mechanism, client.get_client_final())
        client.set_server_final(answer)
    except scramp.ScramException as error:
        raise AuthenticationFailed(f"{connection.name}: {error}") from error


async def _step(connection: Connection, mechanism: str, message: str) -> str:
    payload: Any = await connection.ask("authenticate", mechanism, message.encode())
    match payload:
        case [bool(), bytes(answer)]:
            return answer.decode(errors="replace")
        case _:
            raise ProtocolError(
                f"{connection.name}: an answer to authenticate that is not of its form"
            )
