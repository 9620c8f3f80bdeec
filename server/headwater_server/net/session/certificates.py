"""Certificates: what a TLS connection proves, and which user a client's certificate names.

The name of the user is the common name of the subject. A certificate without one may name the user
in its only alternative name: a DNS name, an e-mail address or a URI. One with several names is not
the certificate of a user, since another of them could be somebody else's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headwater_server.net.settings import ClientLogin

_ALTERNATIVES: Final = frozenset({"DNS", "email", "URI"})


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What is known of a TLS connection.

    Attributes:
        binding: of SCRAM to the server's certificate; None: that certificate has none.
        has_certificate: the client has shown a certificate, and it is valid.
        user: the name of the user in it; None: it names none.
        login: what a client has to show; None: certificates are not asked for.
    """

    binding: bytes | None
    has_certificate: bool = False
    user: str | None = None
    login: ClientLogin | None = None


def user_of(certificate: Mapping[str, Any]) -> str | None:
    """The name of the user in a certificate, given as `ssl` describes one; None: it names none."""
    names = [
        value
        for relative in certificate.get("subject", ())
        for kind, value in relative
        if kind == "commonName"
    ]
    if not names:
        found = certificate.get("subjectAltName", ())
        names = [value for kind, value in found if kind in _ALTERNATIVES]
    return names[0] if len(names) == 1 and names[0] else None
