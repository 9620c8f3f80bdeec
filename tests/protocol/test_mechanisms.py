"""The channel binding: which hash of a certificate it is."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from headwater_protocol.mechanisms import server_end_point

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PSS = padding.PSS(padding.MGF1(hashes.SHA512()), 20)


def signed(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None,
    pss: padding.PSS | None = None,
) -> bytes:
    """A certificate that signs itself, as DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, algorithm, rsa_padding=pss)
    )
    return made.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (signed(RSA, hashes.SHA256()), "sha256"),
        (signed(RSA, hashes.SHA384()), "sha384"),
        (signed(RSA, hashes.SHA512(), PSS), "sha512"),
        (signed(ec.generate_private_key(ec.SECP256R1()), hashes.SHA384()), "sha384"),
    ],
    ids=["RSA", "RSA with SHA-384", "RSA PSS", "ECDSA"],
)
def test_the_hash_is_that_of_the_signature(certificate: bytes, name: str) -> None:
    assert server_end_point(certificate) == hashlib.new(name, certificate).digest()


def test_a_signature_without_a_hash_of_its_own_has_no_binding() -> None:
    assert server_end_point(signed(ed25519.Ed25519PrivateKey.generate(), None)) is None


@pytest.mark.parametrize("der", [b"", b"nonsense", signed(RSA, hashes.SHA256())[:-1]])
def test_what_is_no_certificate_has_no_binding(der: bytes) -> None:
    assert server_end_point(der) is None
