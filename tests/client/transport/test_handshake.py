"""Authentication and TLS."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import scramp
import trustme

import headwater
from headwater.transport.handshake import verifier
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Guard:
    """The server's side of SCRAM."""

    password: str
    final: str | None = None
    steps: Any = field(default=None)

    def __call__(self, request: Any) -> Any:
        message = request.arguments[1].decode()
        try:
            if self.steps is None:
                salt, iterations, stored_key, server_key = verifier(self.password, 4096)
                info = (salt, stored_key, server_key, iterations)
                self.steps = scramp.ScramMechanism("SCRAM-SHA-256").make_server(lambda _: info)
                self.steps.set_client_first(message)
                return [False, self.steps.get_server_first().encode()]
            self.steps.set_client_final(message)
            return [True, (self.final or self.steps.get_server_final()).encode()]
        except scramp.ScramException:
            self.steps = None
            return headwater.AuthenticationFailed("name or password are wrong")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("hello", [1, "fake", [], ["SCRAM-SHA-256"], b"0" * 16])
        server.on("authenticate", Guard("pencil"))
        yield server


async def nothing(db: headwater.Database) -> None:
    await db.ping()


def test_the_right_password_is_accepted_and_never_sent(face: str, server: FakeServer) -> None:
    run_on(face, server.url.replace("//", "//ann:pencil@"), nothing)
    assert b"pencil" not in b"".join(came.arguments[1] for came in server.named("authenticate"))


def test_a_password_may_have_any_characters(face: str, server: FakeServer) -> None:
    server.on("authenticate", Guard("p:@/ é"))
    run_on(face, server.url.replace("//", "//ann:p%3A%40%2F%20%C3%A9@"), nothing)
    server.on("authenticate", Guard("p:@/ é"))
    run_on(face, server.url, nothing, user="ann", password="p:@/ é")
    assert len(server.named("ping")) == 2


def test_a_wrong_password_is_refused(face: str, server: FakeServer) -> None:
    with pytest.raises(headwater.AuthenticationFailed, match="name or password"):
        run_on(face, server.url.replace("//", "//ann:crayon@"), nothing)


def test_a_missing_password_is_reported_before_anything_is_sent(
    face: str, server: FakeServer
) -> None:
    with pytest.raises(headwater.AuthenticationFailed, match="user:password@"):
        run_on(face, server.url, nothing)
    assert not server.named("authenticate")


def test_a_server_that_does_not_know_the_password_is_detected(
    face: str, server: FakeServer
) -> None:
    wrong = "v=" + "A" * 43 + "="
    server.on("authenticate", Guard("pencil", final=wrong))
    with pytest.raises(headwater.AuthenticationFailed):
        run_on(face, server.url.replace("//", "//ann:pencil@"), nothing)
    assert not server.named("ping")


def test_a_server_without_a_known_mechanism_is_refused(face: str, server: FakeServer) -> None:
    server.on("hello", [1, "fake", [], ["PLAIN"], b"0" * 16])
    with pytest.raises(headwater.AuthenticationFailed, match="PLAIN"):
        run_on(face, server.url.replace("//", "//ann:pencil@"), nothing)


def test_a_server_of_another_version_is_refused(face: str, server: FakeServer) -> None:
    server.on("hello", [2, "fake", [], [], b"0" * 16])
    with pytest.raises(headwater.ProtocolError, match="version 2"):
        run_on(face, server.url, nothing)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[FakeServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with FakeServer(tls=context) as server:
        server.on("get", b"\x01")
        yield server


def test_tls_works_with_a_file_of_authorities(
    face: str, secure: FakeServer, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            assert await tx.get("a") == 1
            tx.put("b", bytes(3_000_000))

    run_on(face, f"headwaters://127.0.0.1:{secure.port}?ca_file={tmp_path}/ca.pem", scenario)
    run_on(face, f"{secure.url}?tls=1", scenario, ca_file=str(tmp_path / "ca.pem"))
    assert len(secure.named("commit")[0].arguments[1][0][2]) > 3_000_000


def test_tls_works_with_a_given_context(
    face: str, secure: FakeServer, authority: trustme.CA
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    run_on(face, secure.url, nothing, tls=context)
    assert len(secure.named("ping")) == 1


def test_an_untrusted_certificate_is_reported_and_not_retried(
    face: str, secure: FakeServer
) -> None:
    with pytest.raises(headwater.ConnectionLost, match="not trusted") as caught:
        run_on(face, secure.url, nothing, tls=True)
    assert not caught.value.retryable


def test_the_error_of_a_server_without_tls_mentions_tls(face: str) -> None:
    with FakeServer() as server, pytest.raises(headwater.ConnectionLost, match="TLS"):
        run_on(face, server.url, nothing, tls=True, retry_timeout=0)


@pytest.mark.parametrize("password", ["\U0001faf6", "a\tb"], ids=["a new emoji", "a tab"])
def test_a_password_that_scram_does_not_allow_raises_our_own_error(
    face: str, password: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        for set_user in (db.add_user, db.set_password):
            with pytest.raises(headwater.InvalidArgument, match=r"password: .* forbidden"):
                await set_user("ann", password)

    with FakeServer() as server:
        run_on(face, server.url, scenario)
        assert not server.named("user_set")
