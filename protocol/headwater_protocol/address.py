"""Addresses of servers, as URLs.

    headwater://user:password@host:port            plain TCP, port 4323 unless given
    headwater://host?tls=1&ca_file=/etc/ca.pem     the same, under TLS
    headwaters://host                              TLS, shorter
    headwaters://host?cert_file=/etc/me.pem        with a certificate of one's own; also key_file
    headwater+unix:///run/headwater.sock           a Unix socket

A user or password with characters that have a meaning in URLs must be percent-encoded.
"""

import ssl
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from headwater_protocol.errors import InvalidArgument
from headwater_protocol.limits import PORT_DEFAULT

_SCHEMES: Final = ("headwater", "headwaters", "headwater+unix")
_YES: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server, with the user who connects.

    Attributes:
        host, port: of the server; unused for a Unix socket.
        path: of the Unix socket; empty for TCP.
        user, password: None: connect without authentication.
        tls: the context to connect with; None: no TLS.
    """

    host: str
    port: int
    path: str = ""
    user: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        """The address for error messages, without the password."""
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def parse_address(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    tls: bool | ssl.SSLContext | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> Address:
    """Parse *url*. The other arguments override what the URL says.

    Raises:
        InvalidArgument: the URL has none of the forms above, or a file cannot be read.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidArgument(f"url: {error}") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidArgument(
            f"url: the scheme {parts.scheme!r} is not one of {', '.join(_SCHEMES)} "
            "(headwater://host:port)"
        )
    wants_tls = parts.scheme == "headwaters"
    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "tls" and value.lower() in _YES:
            wants_tls = _YES[value.lower()]
        elif name in files:
            files[name] = files[name] or value
        else:
            raise InvalidArgument(
                f"url: unknown option {name}={value}; known: tls=1, {'=, '.join(files)}="
            )
    context = _tls_context(wants_tls if tls is None else tls, **files)
    address = _place(url)
    if address.path and context is not None:
        raise InvalidArgument("url: TLS is not possible on a Unix socket")
    return replace(
        address,
        user=user if user is not None else unquote(parts.username) if parts.username else None,
        password=(
            password
            if password is not None
            else unquote(parts.password)
            if parts.password
            else None
        ),
        tls=context,
    )


def _place(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme == "headwater+unix":
        if not parts.path or parts.hostname:
            raise InvalidArgument("url: for a Unix socket use headwater+unix:///path/of/the.sock")
        return Address("", 0, unquote(parts.path))
    if parts.path not in ("", "/"):
        raise InvalidArgument(f"url: unexpected path {parts.path!r} after the host")
    try:
        port = PORT_DEFAULT if parts.port is None else parts.port
    except ValueError as error:
        raise InvalidArgument(f"url: {error}") from error
    return Address(parts.hostname or "localhost", port)


def _tls_context(
    tls: bool | ssl.SSLContext, ca_file: str | None, cert_file: str | None, key_file: str | None
) -> ssl.SSLContext | None:
    if isinstance(tls, ssl.SSLContext):
        return tls
    if not tls:
        for name, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
            if file is not None:
                raise InvalidArgument(f"{name}: it needs TLS; use headwaters:// or tls=True")
        return None
    if key_file is not None and cert_file is None:
        raise InvalidArgument("key_file: it needs a cert_file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"ca_file: {ca_file}: {error}") from error
    if cert_file is not None:
        try:
            # The key may be in the same file. No terminal is asked for the password of a key.
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            files = cert_file if key_file is None else f"{cert_file}, {key_file}"
            raise InvalidArgument(f"cert_file: {files}: {error}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a password; give tls= an SSLContext instead")
