"""TLS between a real server and the client: bound passwords, and certificates of clients."""

import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgpack
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

import headwater
from headwater.cli.server_process import ServerFailed, ServerProcess
from headwater_protocol.errors import HeadwaterError
from headwater_server.net.drivers.listening import CannotListen
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.session.certificates import user_of
from tests.client.faces import FACES, run_on


@dataclass
class Place:
    """A server with TLS and the users ann and bob, and the authority of all certificates."""

    path: Path
    server: ServerProcess
    authority: trustme.CA

    @property
    def url(self) -> str:
        return f"headwaters://{self.server.address}?ca_file={self.path}/ca.pem"

    def reload(self) -> None:
        """Let the server read its certificates again, and wait until it has."""
        told = "the certificate was read again"
        before = self.server.log.read_text().count(told)
        os.kill(self.server.pid, signal.SIGHUP)
        url = f"headwater+unix://{self.path}/unix.sock"
        with headwater.connect_blocking(url, user="bob", password="crayon") as db:
            for _ in range(20_000):
                if self.server.log.read_text().count(told) > before:
                    return
                db.ping()
        raise AssertionError(told)

    def certificate(self, *names: str, user: str | None, of: trustme.CA | None = None) -> str:
        """The options of a URL for a new certificate of a client."""
        made = (of or self.authority).issue_cert(*names, common_name=user)
        file = self.path / f"{user or names[0]}.pem"
        made.private_key_and_cert_chain_pem.write_to_path(str(file))
        return f"&cert_file={file}"


@contextmanager
def serving(path: Path, *options: str, authority: trustme.CA | None = None) -> Iterator[Place]:
    authority = authority or trustme.CA()
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(str(path / "server.pem"))
    unix = path / "unix.sock"
    given = ["--tls-cert", str(path / "server.pem"), "--unix", str(unix), *options]
    with ServerProcess(path, given) as server:
        with headwater.connect_blocking(f"headwater+unix://{unix}") as db:
            db.add_user("ann", "pencil")
        # A Unix socket has no certificates, so there a password is enough.
        url = f"headwater+unix://{unix}"
        with headwater.connect_blocking(url, user="ann", password="pencil") as db:
            db.add_user("bob", "crayon")
        yield Place(path, server, authority)


def logged_in(face: str, url: str, user: str | None = None, password: str | None = None) -> str:
    """Log in, and return the name of the user and the mechanism."""

    async def ask(db: headwater.Database) -> str:
        records = await db.rights.audit()
        me = await db.connections.whoami()
        (mechanism,) = [
            record.details["mechanism"]
            for record in records
            if record.event == "logged in" and record.address == me.address
        ]
        return f"{me.user} by {mechanism}"

    return run_on(face, url, ask, user=user, password=password, retry_timeout=0)


@pytest.mark.parametrize("face", FACES)
def test_a_password_is_bound_to_the_certificate_of_the_server(face: str, tmp_path: Path) -> None:
    with serving(tmp_path) as place:
        assert logged_in(face, place.url, "ann", "pencil") == "ann by SCRAM-SHA-256-PLUS"
        with pytest.raises(headwater.AuthenticationFailed, match="name or the password"):
            logged_in(face, place.url, "ann", "crayon")


class Middle:
    """Somebody in the middle, whose certificate the client trusts, and who passes all on."""

    def __init__(self, place: Place, *, strips: bool) -> None:
        self._place = place
        self._strips = strips
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        place.authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._pass_on)

    def __enter__(self) -> "Middle":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _pass_on(self) -> None:
        trusting = ssl.create_default_context(cafile=str(self._place.path / "ca.pem"))
        host, port = self._place.server.address.rsplit(":", 1)
        plain, _ = self._listener.accept()
        with (
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection((host, int(port))) as onward,
            trusting.wrap_socket(onward, server_hostname="127.0.0.1") as server,
        ):
            # A log-in is a request and an answer in turn.
            for _ in range(10):
                asked = client.recv(65536)
                if not asked:
                    return
                server.sendall(asked)
                answer = server.recv(65536)
                if self._strips:
                    answer = without_binding(answer)
                client.sendall(answer)


def without_binding(frame: bytes) -> bytes:
    """An answer to hello without the mechanism that binds; other answers as they are."""
    request_id, status, payload = msgpack.unpackb(frame[4:])
    if isinstance(payload, list) and len(payload) == 5:
        assert payload[3] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
        payload[3] = ["SCRAM-SHA-256"]
    body: bytes = msgpack.packb([request_id, status, payload])
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("strips", [False, True])
def test_what_was_proven_to_somebody_in_the_middle_is_worth_nothing(
    strips: bool, tmp_path: Path
) -> None:
    with serving(tmp_path) as place, Middle(place, strips=strips) as middle:
        url = f"headwaters://127.0.0.1:{middle.port}?ca_file={tmp_path}/ca.pem"
        with pytest.raises(headwater.AuthenticationFailed):
            logged_in("blocking", url, "ann", "pencil")


def refused(url: str, *login: str) -> HeadwaterError:
    """The error of a log-in that does not succeed."""
    with pytest.raises(HeadwaterError) as caught:
        logged_in("blocking", url, *login)
    return caught.value


def test_by_default_a_certificate_is_needed_beside_the_password_of_its_user(tmp_path: Path) -> None:
    with serving(tmp_path, "--tls-client-ca", str(tmp_path / "ca.pem")) as place:
        ann = place.url + place.certificate("a.example", user="ann")
        assert logged_in("blocking", ann, "ann", "pencil") == "ann by SCRAM-SHA-256-PLUS"
        assert "not one of 'bob'" in refused(ann, "bob", "crayon").message
        assert "requires a user" in refused(ann).message
        stranger = place.url + place.certificate("a.example", user="ann", of=trustme.CA())
        for url in (place.url, stranger):
            assert "needs a certificate of the client" in refused(url, "ann", "pencil").message


@pytest.mark.parametrize("face", FACES)
def test_a_certificate_can_be_enough(face: str, tmp_path: Path) -> None:
    options = ("--tls-client-ca", str(tmp_path / "ca.pem"), "--tls-client-login", "certificate")
    with serving(tmp_path, *options) as place:
        ann = place.url + place.certificate("a.example", user="ann")
        assert logged_in(face, ann) == "ann by EXTERNAL"
        # A password changes nothing, and another name does not fit.
        assert logged_in(face, ann, "ann", "wrong") == "ann by EXTERNAL"
        assert "is one of 'ann'" in refused(ann, "bob", "crayon").message
        by_email = place.url + place.certificate("bob@example.org", user=None)
        assert "no user 'bob@example.org'" in refused(by_email).message
        several = place.url + place.certificate("bob.example", "ann.example", user=None)
        assert "no name of a user, or several" in refused(several).message
        assert refused(place.url, "ann", "pencil").code == "connection_lost"


def test_a_certificate_can_be_instead_of_a_password(tmp_path: Path) -> None:
    options = (
        *("--tls-client-ca", str(tmp_path / "ca.pem")),
        *("--tls-client-login", "certificate-or-password"),
    )
    with serving(tmp_path, *options) as place:
        ann = place.url + place.certificate("a.example", user="ann")
        assert logged_in("blocking", ann) == "ann by EXTERNAL"
        assert logged_in("blocking", ann, "bob", "crayon") == "bob by SCRAM-SHA-256-PLUS"
        assert logged_in("blocking", place.url, "bob", "crayon") == "bob by SCRAM-SHA-256-PLUS"
        assert "requires a user" in refused(place.url).message
        assert refused(place.url, "bob", "wrong").code == "authentication_failed"
        # Who logged in by a certificate ends with the user, like everybody.
        with headwater.connect_blocking(ann) as db:
            with headwater.connect_blocking(place.url, user="bob", password="crayon") as other:
                other.remove_user("ann")
            with pytest.raises(headwater.AuthenticationFailed):
                db.get("k")


def write_revoked(file: Path, authority: trustme.CA, *revoked: Path, days: int = 1) -> None:
    """Write the list of the certificates that an authority has revoked; it is valid for days."""
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    now = datetime.now(UTC)
    made = x509.CertificateRevocationListBuilder(issuer, now - timedelta(3), now + timedelta(days))
    for path in revoked:
        serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
        entry = x509.RevokedCertificateBuilder(serial, now - timedelta(2))
        made = made.add_revoked_certificate(entry.build())
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def test_a_certificate_that_its_authority_has_revoked_lets_nobody_in(tmp_path: Path) -> None:
    crl, authority = tmp_path / "crl.pem", trustme.CA()
    write_revoked(crl, authority)
    options = (
        *("--tls-client-ca", str(tmp_path / "ca.pem"), "--tls-client-crl", str(crl)),
        *("--tls-client-login", "certificate"),
    )
    with serving(tmp_path, *options, authority=authority) as place:
        ann = place.url + place.certificate("a.example", user="ann")
        bob = place.url + place.certificate("b.example", user="bob")
        assert logged_in("blocking", ann) == "ann by EXTERNAL"
        write_revoked(crl, authority, tmp_path / "ann.pem")
        assert logged_in("blocking", ann) == "ann by EXTERNAL", "nothing was read again yet"
        place.reload()
        assert refused(ann).code == "connection_lost"
        assert logged_in("blocking", bob) == "bob by EXTERNAL"
        # A list that has expired says nothing of anybody.
        write_revoked(crl, authority, days=-1)
        place.reload()
        assert refused(bob).code == "connection_lost"


@pytest.mark.parametrize("content", [None, "no list"])
def test_a_list_of_revoked_certificates_that_cannot_be_read_is_reported(
    content: str | None, tmp_path: Path
) -> None:
    authority, file, crl = trustme.CA(), tmp_path / "both.pem", tmp_path / "crl.pem"
    made = authority.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(str(file))
    if content is not None:
        crl.write_text(content)
    with pytest.raises(
        CannotListen, match=r"TLS certificates revoked by .*crl\.pem: (No such|no )"
    ):
        Certificate(str(file), None, client_authority=str(file), revoked=str(crl))


@pytest.mark.parametrize(
    ("certificate", "user"),
    [
        ({"subject": ((("commonName", "ann"),),)}, "ann"),
        (
            {"subject": ((("commonName", "ann"),),), "subjectAltName": (("DNS", "b.example"),)},
            "ann",
        ),
        ({"subject": ((("organizationName", "x"),),), "subjectAltName": (("DNS", "b"),)}, "b"),
        ({"subjectAltName": (("email", "ann@example.org"),)}, "ann@example.org"),
        ({"subjectAltName": (("URI", "spiffe://a/b"), ("IP Address", "::1"))}, "spiffe://a/b"),
        ({"subject": ((("commonName", "ann"),), (("commonName", "bob"),))}, None),
        ({"subject": ((("commonName", "ann"), ("commonName", "bob")),)}, None),
        ({"subjectAltName": (("DNS", "a"), ("email", "b"))}, None),
        ({"subjectAltName": (("IP Address", "127.0.0.1"),)}, None),
        ({"subject": ((("commonName", ""),),), "subjectAltName": (("DNS", "b"),)}, None),
        ({}, None),
    ],
)
def test_a_certificate_names_one_user_or_none(
    certificate: dict[str, object], user: str | None
) -> None:
    assert user_of(certificate) == user


def test_a_renewed_certificate_binds_passwords_to_itself(tmp_path: Path) -> None:
    authority, file = trustme.CA(), tmp_path / "server.pem"

    def renew() -> None:
        made = authority.issue_cert("127.0.0.1")
        made.private_key_and_cert_chain_pem.write_to_path(str(file))

    renew()
    certificate = Certificate(str(file), None)
    first = certificate.identity
    certificate.reload()
    assert certificate.identity.binding == first.binding
    renew()
    certificate.reload()
    assert certificate.identity.binding != first.binding
    file.write_text("no certificate")
    before = certificate.identity
    with pytest.raises(CannotListen):
        certificate.reload()
    assert certificate.identity is before


def test_an_authority_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match=r"TLS authority for clients .*none\.pem: No such file"),
        serving(tmp_path, "--tls-client-ca", str(tmp_path / "none.pem")),
    ):
        pass
