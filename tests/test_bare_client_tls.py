"""The promises of docs/protocol.md about TLS, tested with a client written from that page alone."""

import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

import headwater
from headwater.cli.server_process import ServerProcess

from .bare_client import BareClient, ErrorAnswer


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, tmp_path: Path) -> Iterator[ServerProcess]:
    certificate, trusted = tmp_path / "server.pem", tmp_path / "ca.pem"
    made = authority.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(trusted))
    options = [
        *("--tls-cert", str(certificate), "--tls-client-ca", str(trusted)),
        *("--tls-client-login", "certificate-or-password"),
    ]
    with ServerProcess(tmp_path, options) as server:
        url = f"headwaters://{server.address}?ca_file={trusted}"
        with headwater.connect_blocking(url) as db:
            db.add_user("ann", "pencil")
        yield server


def test_a_password_is_bound_to_the_certificate(
    secure: ServerProcess, authority: trustme.CA
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with closing(BareClient(secure.address, context)) as client:
        assert client.call("hello", 1)[3] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
        with pytest.raises(ErrorAnswer, match="authentication_failed"):
            client.authenticate("ann", "pen")
        client.authenticate("ann", "pencil")
        assert client.call("whoami")[1] == "ann"


def test_a_certificate_logs_its_user_in(secure: ServerProcess, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("a.example", common_name="ann").configure_cert(context)
    with closing(BareClient(secure.address, context)) as client:
        assert "EXTERNAL" in client.call("hello", 1)[3]
        assert client.call("authenticate", "EXTERNAL", b"") == [True, b""]
        assert client.call("whoami")[1] == "ann"
