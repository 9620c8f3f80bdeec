"""Addresses of servers, as URLs.

    headwater://user:password@host:port            plain TCP, port 4323 unless given
    headwater://host?tls=1&ca_file=/etc/ca.pem     the same, under TLS
    headwaters://host                              TLS, shorter
    headwaters://host?cert_file=/etc/me.pem        with a certificate of one's own; also key_file
    headwater+unix:///run/headwater.sock           a Unix socket
    headwater://a:4323,b:4323,[::1]:4323/?read=nearest     the nodes of one database

A user or password with characters that have a meaning in URLs must be percent-encoded.
"""

import ssl
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from headwater_protocol.errors import InvalidArgument
from headwater_protocol.limits import PORT_DEFAULT

_SCHEMES: Final = ("headwater", "headwaters", "headwater+unix")
_YES: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


NODES_MAX: Final = 16
"""Addresses in one URL. A client may have to ask all of them for the leader."""

READ_MODES: Final = ("leader", "nearest", "follower")
"""Where a client of several nodes reads."""


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


@dataclass(frozen=True, slots=True)
class Addresses:
    """The nodes of a database, and where to read.

    Attributes:
        nodes: one address or several, with the same user and TLS.
        read: one of READ_MODES; None: the URL has one address and no such option, so that this
            node alone is asked, whatever it is.
    """

    nodes: tuple[Address, ...]
    read: str | None


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
    """Parse *url*, which has one address. The other arguments override what the URL says.

    Raises:
        InvalidArgument: the URL has none of the forms above, or a file cannot be read.
    """
    parsed = parse_addresses(
        url,
        user=user,
        password=password,
        tls=tls,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    if len(parsed.nodes) > 1:
        raise InvalidArgument(f"url: {len(parsed.nodes)} addresses; give the one of a single node")
    if parsed.read is not None:
        raise InvalidArgument(f"url: read={parsed.read} is for clients; leave it out")
    return parsed.nodes[0]


def parse_addresses(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    tls: bool | ssl.SSLContext | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    read: str | None = None,
) -> Addresses:
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
    if read is not None and read not in READ_MODES:
        raise InvalidArgument(f"read: {read!r}; known: {', '.join(READ_MODES)}")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "read":
            if value not in READ_MODES:
                raise InvalidArgument(f"url: read={value}; known: {', '.join(READ_MODES)}")
            read = read or value
        elif name == "tls" and value.lower() in _YES:
            wants_tls = _YES[value.lower()]
        elif name in files:
            files[name] = files[name] or value
        else:
            raise InvalidArgument(
                f"url: unknown option {name}={value}; known: tls=1, read=, {'=, '.join(files)}="
            )
    context = _tls_context(wants_tls if tls is None else tls, **files)
    places = _places(parts)
    if places[0].path and context is not None:
        raise InvalidArgument("url: TLS is not possible on a Unix socket")
    if user is None and parts.username:
        user = unquote(parts.username)
    if password is None and parts.password:
        password = unquote(parts.password)
    nodes = tuple(replace(each, user=user, password=password, tls=context) for each in places)
    return Addresses(nodes, "leader" if read is None and len(nodes) > 1 else read)


def _places(parts: SplitResult) -> list[Address]:
    """The addresses of a URL, without user and TLS."""
    if parts.scheme == "headwater+unix":
        if not parts.path or parts.hostname:
            raise InvalidArgument("url: for a Unix socket use headwater+unix:///path/of/the.sock")
        return [Address("", 0, unquote(parts.path))]
    if parts.path not in ("", "/"):
        raise InvalidArgument(f"url: unexpected path {parts.path!r} after the host")
    named = parts.netloc.rpartition("@")[2].split(",")
    if len(named) == 1:
        return [_place(parts.netloc, "url")]
    if len(named) > NODES_MAX:
        raise InvalidArgument(f"url: {len(named)} addresses; allowed are {NODES_MAX}")
    places: list[Address] = []
    for number, text in enumerate(named, 1):
        where = f"url: address {number} of {len(named)}"
        if not text:
            raise InvalidArgument(f"{where} is empty")
        place = _place(text, f"{where}: {text}")
        if place in places:
            raise InvalidArgument(
                f"{where}: {text} is the same as address {places.index(place) + 1}"
            )
        places.append(place)
    return places


def _place(text: str, where: str) -> Address:
    """The address of host:port."""
    try:
        parts = urlsplit(f"//{text}")
        port = PORT_DEFAULT if parts.port is None else parts.port
    except ValueError as error:
        hint = "; an IPv6 address is written in brackets" if text.count(":") > 1 else ""
        raise InvalidArgument(f"{where}: {error}{hint}") from error
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
