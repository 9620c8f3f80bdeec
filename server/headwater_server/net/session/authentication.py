"""Authentication: SCRAM-SHA-256 (RFC 5802, RFC 7677) against the verifiers in the database.

With TLS, SCRAM can be bound to the server's certificate, and a certificate of the client can log in
itself (EXTERNAL), or be needed beside the password.

    client-first   n,,n=ann,r=<nonce>                ->
    server-first                                     <-   r=<nonce+ours>,s=<salt>,i=<iterations>
    client-final   c=biws,r=<nonces>,p=<proof>       ->
    server-final                                     <-   v=<our proof that we know the verifier>

The password never travels, and what is stored is not enough to log in. A name that does not
exist is answered like one that does, with a salt that stays the same for that name and a verifier
that no password fits. So neither the answer nor its timing tells whether the name exists. Salts of
such names are made from a secret of the database, and the number of iterations is that of a user.

Names are prepared with SASLprep (RFC 4013) before they are looked up. So a user can only have a
name that SASLprep leaves as it is: `check_name`.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from scramp import ScramException, ScramMechanism
from scramp.utils import saslprep

from headwater_protocol.errors import AuthenticationFailed, InvalidArgument, shown
from headwater_protocol.mechanisms import BINDING, EXTERNAL, SCRAM, SCRAM_PLUS
from headwater_server.engine.accounts import Account, Verifier
from headwater_server.engine.engine import Engine
from headwater_server.net.session.audit import Audit
from headwater_server.net.session.certificates import TlsFacts
from headwater_server.net.session.login_attempts import Bursts, LoginAttempts, address_of
from headwater_server.net.session.peer import Peer
from headwater_server.net.session.strangers import Strangers
from headwater_server.net.settings import ClientLogin

_log = structlog.get_logger(__name__)

_SHAPE: Final = (16, 15_000)
"""The size of the salt and the iterations of decoys while the database has no users."""


def check_name(name: str) -> None:
    """Refuse the name of a user that could never log in.

    Raises:
        InvalidArgument: SASLprep changes or forbids it.
    """
    try:
        prepared = saslprep(name)
    except ScramException as error:
        raise InvalidArgument(
            f"user {shown(name)}: SASLprep forbids this name ({error}), so it could never log in"
        ) from None
    if prepared != name:
        raise InvalidArgument(
            f"user {shown(name)}: log-in prepares names with SASLprep, which makes "
            f"{shown(prepared)} of this one; choose that name"
        )


class Exchange:
    """One SCRAM conversation: the user, and the state of the scramp library."""

    def __init__(
        self, authentication: "Authentication", mechanism: str, binding: bytes | None
    ) -> None:
        self._authentication = authentication
        self.mechanism = mechanism
        self.name = ""
        # The number and the verifier of the user at the first message.
        self.known: tuple[int, Verifier] | None = None
        # When the second message came, in seconds of the monotonic clock.
        self.arrived: float | None = None
        # Also without the mechanism that needs it: then a client that could have used it, and was
        # not offered it, is refused. Somebody in the middle has taken it from the list.
        bound = None if binding is None else (BINDING, binding)
        self._scram = ScramMechanism(mechanism).make_server(self._verifier_of, bound)

    def begin(self, message: str) -> str:
        """Take client-first, return server-first."""
        self._scram.set_client_first(message)
        if self._scram.m.name != self.mechanism:
            raise ScramException("the message is of another mechanism")
        first: str = self._scram.get_server_first()
        return first

    def finish(self, message: str) -> str:
        """Take client-final, return server-final.

        Raises:
            ScramException: the proof is wrong.
        """
        self._scram.set_client_final(message)
        final: str = self._scram.get_server_final()
        return final

    def _verifier_of(self, name: str) -> tuple[bytes, bytes, bytes, int]:
        self.name = name
        account, verifier = self._authentication.look_up(name)
        self.known = None if account is None else (account.number, verifier)
        return verifier.salt, verifier.stored_key, verifier.server_key, verifier.iterations


class Candidate(Peer, Protocol):
    """The part of a session that authentication needs.

    Attributes:
        exchange: the conversation, between its first message and its last.
        authentications_failed: how often the client has failed to authenticate.
    """

    exchange: Exchange | None
    authentications_failed: int

    def end_after_answer(self) -> None:
        """Close once the answer to the current request has been sent."""
        ...


class Authentication:
    """Authenticates the clients of sessions."""

    def __init__(
        self,
        engine: Engine,
        audit: Audit,
        strangers: Strangers,
        *,
        failed_max: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._audit = audit
        self._strangers = strangers
        self._failed_max = failed_max
        self.failed_total = 0
        self._decoy_key = secrets.token_bytes(32)
        # Of all users in order, or None if they have changed since.
        self._shapes: list[tuple[int, int]] | None = None
        self._monotonic = monotonic
        self._attempts = LoginAttempts(monotonic)
        self._bursts = Bursts(monotonic)

    def wait_s(self, session: Candidate) -> float:
        """Seconds that the next message has to wait, because of failures before it; 0: none."""
        # Only the second message of an exchange has a proof, which can be a guess.
        exchange = session.exchange
        if exchange is None:
            return 0.0
        if exchange.arrived is None:
            exchange.arrived = self._monotonic()
        return self._attempts.wait_s(address_of(session.peer), exchange.name, exchange.arrived)

    def offered(self, session: Candidate) -> list[str]:
        """The mechanisms that a session may use, the best one first."""
        tls = self._strangers.tls(session)
        if tls is None:
            return [SCRAM]
        alone = tls.login in (ClientLogin.CERTIFICATE, ClientLogin.EITHER)
        found = [EXTERNAL] if tls.has_certificate and alone else []
        if tls.login is not ClientLogin.CERTIFICATE:
            found += [SCRAM] if tls.binding is None else [SCRAM_PLUS, SCRAM]
        return found

    def step(self, session: Candidate, mechanism: str, message: bytes) -> tuple[bool, bytes]:
        """Take one message of the client; return whether that was the last, and the reply.

        Raises:
            AuthenticationFailed: name, password or certificate is wrong, or the message is
                malformed, or of a mechanism that is not offered.
        """
        exchange, session.exchange = session.exchange, None
        tls = self._strangers.tls(session)
        if mechanism not in self.offered(session):
            raise self._failure(session, "", f"{mechanism} is not offered on this connection")
        if mechanism == EXTERNAL:
            assert tls is not None, "it is offered with a certificate alone"
            return True, self._by_certificate(session, tls, message)
        try:
            text = message.decode()
            if exchange is None:
                exchange = Exchange(self, mechanism, None if tls is None else tls.binding)
                reply = exchange.begin(text)
                session.exchange = exchange
                return False, reply.encode()
            if exchange.mechanism != mechanism:
                raise ScramException("the exchange began with another mechanism")
            reply = exchange.finish(text)
            account = self._engine.accounts.find(exchange.name)
            # No proof can fit a decoy, but we do not rely on that.
            if account is None or exchange.known is None:
                raise ScramException("no such user")
            # The user may have changed since the first message.
            if (account.number, account.verifier) != exchange.known:
                raise ScramException("the user is another one, or has another password")
        except (ScramException, ValueError) as error:
            name = "" if exchange is None else exchange.name
            raise self._failure(session, name, "the name or the password is wrong") from error
        if tls is not None and tls.login is ClientLogin.BOTH and tls.user != exchange.name:
            why = f"the certificate of this connection is not one of {exchange.name!r}"
            raise self._failure(session, exchange.name, why)
        self._attempts.succeeded(address_of(session.peer), exchange.name)
        self._accept(session, account, mechanism)
        return True, reply.encode()

    def _by_certificate(self, session: Candidate, tls: TlsFacts, message: bytes) -> bytes:
        """Log in the user of the client's certificate. *message* is its name, or empty."""
        if tls.user is None:
            raise self._failure(session, "", "the certificate has no name of a user, or several")
        if message not in (b"", tls.user.encode()):
            why = f"the certificate of this connection is one of {tls.user!r}"
            raise self._failure(session, "", why)
        account = self._engine.accounts.find(tls.user)
        if account is None:
            # A certificate is no guess, so this may be told.
            why = f"there is no user {tls.user!r}, as the certificate says"
            raise self._failure(session, "", why)
        self._accept(session, account, EXTERNAL)
        return b""

    def _accept(self, session: Candidate, account: Account, mechanism: str) -> None:
        session.account = account
        session.user_number = account.number
        self._audit.record("logged in", session, mechanism=mechanism)

    def _failure(self, session: Candidate, name: str, why: str) -> AuthenticationFailed:
        session.authentications_failed += 1
        self.failed_total += 1
        failed = session.authentications_failed
        address = address_of(session.peer)
        self._attempts.failed(address, name)
        left_out = self._bursts.admit(address)
        if left_out is not None:
            _log.warning(
                "authentication failed",
                peer=session.peer,
                name=name,
                why=why,
                failed=failed,
                left_out=left_out,
            )
            self._audit.record("log-in failed", session, name=name, why=why, left_out=left_out)
        if failed >= self._failed_max:
            session.end_after_answer()
        return AuthenticationFailed(why)

    def look_up(self, name: str) -> tuple[Account | None, Verifier]:
        """The account of this name with its verifier; None and a decoy if there is none."""
        account = self._engine.accounts.find(name)
        # Also computed for a name that exists, so that both take the same time.
        decoy = self._decoy(name)
        return account, decoy if account is None else account.verifier

    def forget_users(self) -> None:
        """The users have changed."""
        self._shapes = None

    def _decoy(self, name: str) -> Verifier:
        # Iterations and the size of the salt are those of one of the users, always the same one for
        # a name. If all users have the same, as those of the client library do, they tell nothing.
        accounts = self._engine.accounts
        if self._shapes is None:
            # Kept, so that a log-in costs the same however many users there are.
            verifiers = [verifier for _, verifier in accounts.verifiers()]
            self._shapes = [(len(each.salt), each.iterations) for each in verifiers]
        secret = accounts.secret() or self._decoy_key
        digest = hmac.digest(secret, b"decoy " + name.encode(), hashlib.sha512)
        shapes = self._shapes or [_SHAPE]
        salt_size, iterations = shapes[int.from_bytes(digest[-8:]) % len(shapes)]
        salt = digest[:salt_size]
        return Verifier(salt, iterations, secrets.token_bytes(32), secrets.token_bytes(32))
