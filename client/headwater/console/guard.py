"""What stands between a browser and the pages: hosts, headers, cookies and tokens.

A console listens on this machine, and the browser on this machine also runs the scripts of other
sites. So each request is checked for what such a script could do:

- It could reach the console under a name of its own that leads to 127.0.0.1 (DNS rebinding). So the
  Host of a request must be one that was allowed.
- It could send a form (CSRF). So what changes anything needs a token that only the pages have, and
  the Origin, where the browser sends one, must be the console's own.
- Data of the database could contain a script. So templates escape everything, and the policy of
  each page allows scripts from the console's own files alone, and none in the page.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Addresses have names of streams and keys in them.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

COOKIE_BYTES: Final = 32
"""Random bytes in a cookie, so that nobody can guess it."""


class Guard:
    """An ASGI application around another: refuses foreign requests, and adds headers to answers.

    Args:
        app: the application.
        hosts: values of the Host header that are allowed, with the port unless it is 80 or 443.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refused(request)
        if refused is not None:
            await PlainTextResponse(refused, status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *HEADERS]
                if b"cache-control" not in present:
                    # Pages show what their user may see, and nobody else.
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refused(self, request: Request) -> str | None:
        """Why a request is refused, or None."""
        host = request.headers.get("host", "").lower()
        if host not in self._hosts:
            return (
                f"The console does not answer for the host {host!r:.100}. "
                "`headwater console --host NAME` allows another name.\n"
            )
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return "The request comes from another site.\n"
        return None


class Tokens:
    """Tokens of forms: each belongs to the cookie of one browser, and ends with the process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(COOKIE_BYTES)

    def of(self, cookie: str) -> str:
        """The token for the forms of a browser."""
        return hmac.new(self._secret, cookie.encode(), hashlib.sha256).hexdigest()

    def fits(self, cookie: str, token: str) -> bool:
        """Whether a form was made for this browser."""
        return bool(cookie) and hmac.compare_digest(self.of(cookie).encode(), token.encode())


def new_cookie() -> str:
    """The value of a new cookie."""
    return secrets.token_urlsafe(COOKIE_BYTES)


def allowed_hosts(host: str, port: int, more: Collection[str]) -> set[str]:
    """The values of the Host header that a console at this address answers to.

    Args:
        host, port: where it listens.
        more: names that `--host` allows; a name without a port is allowed with every port that
            may be in front of the console, and so with this one, 80 and 443.
    """
    own = {host, *more}
    if host in ("127.0.0.1", "::1", "localhost"):
        own |= {"127.0.0.1", "localhost", "[::1]"}
    allowed: set[str] = set()
    for name in own:
        if ":" in name and not name.startswith("[") and name.count(":") > 1:
            name = f"[{name}]"
        allowed |= {name, f"{name}:{port}"}
    return allowed
