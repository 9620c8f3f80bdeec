"""TLS of the server: its certificate, and which certificates of clients it accepts.

All are files, which can be renewed while connections are open.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from headwater_protocol.mechanisms import server_end_point
from headwater_server.net.drivers.listening import CannotListen
from headwater_server.net.settings import ClientLogin


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate in use.

    Attributes:
        context: of TLS, for new connections. Open connections keep the one that they began with.
        binding: of SCRAM to this certificate, or None.
    """

    context: ssl.SSLContext
    binding: bytes | None


class Certificate:
    """The certificate of the TLS addresses.

    Attributes:
        identity: for new connections.
        login: what a client has to show; None: it is not asked for a certificate.
    """

    def __init__(
        self,
        file: str,
        key: str | None,
        *,
        client_authority: str | None = None,
        revoked: str | None = None,
        login: ClientLogin = ClientLogin.BOTH,
    ) -> None:
        """Read the files.

        Raises:
            CannotListen: they cannot be read, or do not belong together.
        """
        self._file = file
        self._key = key
        self._client_authority = client_authority
        self._revoked = revoked
        self.login = None if client_authority is None else login
        self.identity = self._read()

    def reload(self) -> None:
        """Read the files again, for new connections.

        Raises:
            CannotListen: as above. What was read before stays in use.
        """
        # A new context: the old one would keep its certificate if the new one has another kind of
        # key, and offer both.
        self.identity = self._read()

    def _read(self) -> Identity:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._file, self._key)
            # The first one in the file is the server's own.
            pem = Path(self._file).read_text(encoding="ascii", errors="replace")
            end = pem.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
            own = ssl.PEM_cert_to_DER_cert(pem[pem.index(ssl.PEM_HEADER) : end])
        except (OSError, ssl.SSLError) as error:
            files = self._file if self._key is None else f"{self._file}, {self._key}"
            raise CannotListen(f"TLS certificate and key from {files}: {_why(error)}") from error
        if self._client_authority is not None:
            try:
                context.load_verify_locations(self._client_authority)
            except (OSError, ssl.SSLError) as error:
                raise CannotListen(
                    f"TLS authority for clients from {self._client_authority}: {_why(error)}"
                ) from error
            if self._revoked is not None:
                self._refuse_revoked(context, self._revoked)
            optional = self.login is ClientLogin.EITHER
            context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        return Identity(context, server_end_point(own))

    @staticmethod
    def _refuse_revoked(context: ssl.SSLContext, file: str) -> None:
        """Refuse the certificates that the lists in a file name.

        OpenSSL also refuses those of an authority that has no list there, or an expired one.
        """
        try:
            if ssl.PEM_HEADER.replace("CERTIFICATE", "X509 CRL") not in Path(file).read_text(
                encoding="ascii", errors="replace"
            ):
                raise CannotListen(f"TLS certificates revoked by {file}: no list in PEM form")
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            raise CannotListen(f"TLS certificates revoked by {file}: {_why(error)}") from error
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _why(error: OSError) -> str:
    return error.strerror or str(error)
