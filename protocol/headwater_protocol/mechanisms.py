"""How a client proves who it is: the SASL mechanisms, and the channel binding of SCRAM.

    SCRAM-SHA-256         a password, which never travels (RFC 5802, RFC 7677)
    SCRAM-SHA-256-PLUS    the same, bound to the TLS connection on which it happens (RFC 5929)
    EXTERNAL              the certificate that the client has shown in TLS (RFC 4422, appendix A)

The binding is a hash of the server's certificate. A server in the middle that passes the messages
on has another certificate, so what a client has proven there is worth nothing at the real server.
"""

import hashlib
from typing import Final

from asn1crypto.x509 import Certificate

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"
EXTERNAL: Final = "EXTERNAL"

MECHANISMS: Final = (SCRAM, SCRAM_PLUS, EXTERNAL)

BINDING: Final = "tls-server-end-point"
"""The type of channel binding. docs/decisions/net.md says why it is this one."""

_REPLACED: Final = {"md5": "sha256", "sha1": "sha256"}

_WITHOUT_HASH: Final = frozenset({"ed25519", "ed448"})
"""Signatures for which RFC 5929 does not define the hash."""


def server_end_point(certificate: bytes) -> bytes | None:
    """The hash of a server's certificate (DER) that binds SCRAM to it; None: it has none."""
    try:
        parsed = Certificate.load(certificate, strict=True)
        if parsed["signature_algorithm"]["algorithm"].native in _WITHOUT_HASH:
            return None
        name = parsed.hash_algo
        return hashlib.new(_REPLACED.get(name, name), certificate).digest()
    except ValueError:
        # A signature that asn1crypto or hashlib does not know.
        return None
