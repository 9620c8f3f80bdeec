"""The console as an ASGI application: which address is which page, and what goes wrong.

A page is made on the server, and works without a script. The script of the console asks for the
same address with the header X-Fragment and puts what comes back into the page, so moving the moment
does not load a new page.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import anyio
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from headwater.console import addresses, live, words
from headwater.console.acts import ACTS
from headwater.console.guard import Guard, Tokens, new_cookie
from headwater.console.moments import moment_of
from headwater.console.pages import PAGES
from headwater.console.refusals import refusal
from headwater.console.sessions import Connect, Session, Sessions
from headwater.console.visits import (
    MARKS_MAX,
    Elsewhere,
    Handler,
    Page,
    Settings,
    Visit,
)
from headwater.errors import AuthenticationFailed, HeadwaterError, InvalidArgument, TooMany

FORM_SIZE_MAX: Final = 16 * 1024
"""Bytes of a form: a question has a few names in it."""

TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Console:
    """A console. `running` connects it, `asgi` answers requests.

    Args:
        connect: makes a database for a user and a password.
        settings: what it was started with.
        hosts: values of the Host header that it answers to.
        port: where it listens; a part of the cookie's name, since browsers share cookies between
            ports.
    """

    def __init__(
        self, connect: Connect, settings: Settings, hosts: Collection[str], port: int
    ) -> None:
        self.sessions = Sessions(connect)
        self.settings = settings
        self._tokens = Tokens()
        self._cookie = f"headwater-console-{port}"
        self._static = _static_files()
        self._templates = _templates({name: tag for name, (_, tag) in self._static.items()})
        self.asgi: ASGIApp = Guard(Starlette(routes=self._routes()), hosts)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect to the server, and keep the connections open while the block runs."""
        async with anyio.create_task_group() as tasks:
            await self.sessions.start(tasks)
            yield
            tasks.cancel_scope.cancel()

    def _routes(self) -> Sequence[Route]:
        return [
            *(Route(path, self._page(handler), methods=["GET"]) for path, handler in PAGES.items()),
            *(
                Route(path, self._act(ask, do), methods=["GET", "POST"])
                for path, (ask, do) in ACTS.items()
            ),
            *(
                Route(path, self._with_session(answer), methods=["GET"])
                for path, answer in live.ANSWERS.items()
            ),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/static/{name}", self._file, methods=["GET"]),
        ]

    # Pages.

    def _page(self, handler: Handler) -> Any:
        async def answer(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return _to_login(request)
            return await self._answered(request, session, handler)

        return answer

    async def _answered(self, request: Request, session: Session, handler: Handler) -> Response:
        visit: Visit | None = None
        try:
            visit = await self._visit(request, session)
            given = request.query_params.get("at", "").strip()
            if given and given != str(visit.moment.at or ""):
                # A time, or a commit that is still to come, becomes the commit that is shown.
                return RedirectResponse(visit.here(), status_code=303)
            page = await handler(visit)
        except HeadwaterError as error:
            page = await refusal(error, visit, session)
        if isinstance(page, Elsewhere):
            return RedirectResponse(page.address, status_code=303)
        return self._render(request, page, visit, session)

    async def _visit(self, request: Request, session: Session) -> Visit:
        query = dict(request.query_params)
        moment = await moment_of(session.db, query.pop("at", ""), query.pop("vs", ""))
        track: dict[str, str] = {}
        for name in ("axis", "view"):
            if name in query:
                track[name] = query.pop(name)
        return Visit(self.settings, session, moment, request.url.path, query, track)

    def _render(
        self, request: Request, page: Page, visit: Visit | None, session: Session | None
    ) -> Response:
        cookie = request.cookies.get(self._cookie) or new_cookie()
        # What the address names is shown whatever it is, so it must not reach a template unescaped.
        layout = "content.html" if "x-fragment" in request.headers else "page.html"
        html = self._templates.get_template(layout).render(
            page=page,
            visit=visit,
            moment=None if visit is None else visit.moment,
            marks=_thinned(page.marks),
            user=None if session is None else session.user,
            by_login=self.sessions.by_login,
            settings=self.settings,
            token=self._tokens.of(cookie),
            **page.values,
        )
        response = HTMLResponse(html, status_code=page.status)
        if self._cookie not in request.cookies:
            self._set_cookie(request, response, cookie)
        return response

    # What changes something: first a question, then a form that answers it.

    def _act(self, ask: Handler, do: Any) -> Any:
        async def answer(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return _to_login(request)
            if request.method == "GET":
                return await self._answered(request, session, ask)
            form = await self._form(request)
            if form is None:
                return PlainTextResponse("The form is out of date; go back and reload.\n", 403)

            async def act(visit: Visit) -> Page | Elsewhere:
                done: Page | Elsewhere = await do(visit, form)
                return done

            return await self._answered(request, session, act)

        return answer

    async def _form(self, request: Request) -> dict[str, str] | None:
        """The members of a form; None if it does not come from a page of this console."""
        if int(request.headers.get("content-length") or FORM_SIZE_MAX + 1) > FORM_SIZE_MAX:
            return None
        async with request.form(max_files=0, max_fields=20) as form:
            members = {name: value for name, value in form.items() if isinstance(value, str)}
        cookie = request.cookies.get(self._cookie, "")
        return members if self._tokens.fits(cookie, members.get("token", "")) else None

    # Sessions.

    def _session(self, request: Request) -> Session | None:
        return self.sessions.of(request.cookies.get(self._cookie, ""))

    def _with_session(self, answer: Any) -> Any:
        async def answered(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return PlainTextResponse("not logged in\n", 401)
            try:
                response: Response = await answer(request, session)
            except HeadwaterError as error:
                page = await refusal(error, None, session)
                return PlainTextResponse(f"{error}\n", page.status)
            return response

        return answered

    async def _login(self, request: Request) -> Response:
        to = _local(request.query_params.get("to", "/"))
        if not self.sessions.by_login:
            return RedirectResponse(to, status_code=303)
        problem, user = "", ""
        if request.method == "POST":
            form = await self._form(request)
            if form is None:
                problem = "The form was out of date. Try again."
            else:
                user = form.get("user", "")
                try:
                    cookie = await self.sessions.log_in(user, form.get("password", ""))
                except (AuthenticationFailed, InvalidArgument):
                    problem = "The server refuses this user or this password."
                except (HeadwaterError, TooMany) as error:
                    problem = str(error)
                else:
                    response = RedirectResponse(to, status_code=303)
                    self._set_cookie(request, response, cookie)
                    return response
        values = {"problem": problem, "name": user, "to": to}
        page = Page("login.html", "Log in", values=values, status=403 if problem else 200)
        return self._render(request, page, None, None)

    async def _logout(self, request: Request) -> Response:
        if await self._form(request) is not None:
            self.sessions.log_out(request.cookies.get(self._cookie, ""))
        return RedirectResponse("/login", status_code=303)

    def _set_cookie(self, request: Request, response: Response, cookie: str) -> None:
        response.set_cookie(
            self._cookie,
            cookie,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )

    # Files.

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return PlainTextResponse("no such file\n", 404)
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        media = TYPES[name.rpartition(".")[2]]
        return Response(self._static[name][0], media_type=media, headers=headers)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """The files for browsers, each with a tag that changes with its content."""
    folder = files("headwater.console") / "static"
    contents = {each.name: each.read_bytes() for each in folder.iterdir()}
    return {name: (data, hashlib.sha256(data).hexdigest()[:12]) for name, data in contents.items()}


def _templates(tags: dict[str, str]) -> Environment:
    environment = Environment(
        loader=PackageLoader("headwater.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        words.clock, words.cut, words.iso, words.key_text, words.member_text, words.members,
        words.number, words.pretty, words.raw, words.shown, words.signed, words.size, words.span,
        words.visible, addresses.key_address,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    environment.filters["json"] = lambda value: json.dumps(value, separators=(",", ":"))
    environment.globals["tags"] = tags
    return environment


def _thinned(marks: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """At most MARKS_MAX marks, evenly chosen, in order. Red ones and snapshots stay."""
    ordered = sorted(set(marks))
    if len(ordered) <= MARKS_MAX:
        return ordered
    step = -(-len(ordered) // MARKS_MAX)
    return [mark for place, mark in enumerate(ordered) if mark[1] or place % step == 0]


def _to_login(request: Request) -> Response:
    if "x-fragment" in request.headers:
        return PlainTextResponse("not logged in\n", 401)
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = to if request.method == "GET" else "/"
    return RedirectResponse(addresses.address("/login", {"to": target}), status_code=303)


def _local(to: str) -> str:
    """An address of this console, whatever the link says."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"
