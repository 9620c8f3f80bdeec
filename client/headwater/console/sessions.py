"""Who looks: a database for each user who has logged in, or one for everybody.

If the URL of the console names a user, or the server asks nobody for a password, everybody who can
reach the console has the rights of that one connection. Otherwise each person logs in on a page,
and the console connects with that name and password. The password is kept in memory for as long as
the session lasts, because a lost connection is opened again; it is never written anywhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from headwater.accounts.rights import UserRights
from headwater.console.guard import new_cookie
from headwater.database import Database
from headwater.errors import AuthenticationFailed, HeadwaterError, TooMany

SESSIONS_MAX: Final = 100
"""Sessions at a time: each has a connection to the server."""

IDLE_S_MAX: Final = 12 * 3600.0
"""Seconds after which a session that nobody uses ends: a working day."""

Connect = Callable[[str | None, str | None], Database]
"""Makes a database for a user and a password; for None, with what the URL has."""


@dataclass(slots=True)
class Session:
    """Somebody who looks.

    Attributes:
        db: the database, with the rights of its user.
        user: the name; None if the server has no users.
        used: when it was used last, in seconds of the monotonic clock.
    """

    db: Database
    user: str | None
    used: float = field(default_factory=time.monotonic)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def rights(self) -> UserRights:
        """What the user may do now."""
        return await self.db.rights.mine()


class Sessions:
    """The sessions of a console. Use it inside of `running`."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._tasks: TaskGroup | None = None
        self._shared: Session | None = None
        self._by_cookie: dict[str, Session] = {}

    async def start(self, tasks: TaskGroup) -> None:
        """Connect as the URL says. If the server wants a user, wait for people to log in.

        Raises:
            AuthenticationFailed: the URL names a user, and the server refuses it.
            ConnectionLost: there is no server.
        """
        self._tasks = tasks
        db = self._connect(None, None)
        try:
            self._shared = await self._open(db)
        except AuthenticationFailed:
            if db.address.user is not None:
                raise

    @property
    def by_login(self) -> bool:
        """Whether people log in."""
        return self._shared is None

    def of(self, cookie: str) -> Session | None:
        """The session of a browser; None if it has to log in."""
        if self._shared is not None:
            return self._shared
        session = self._by_cookie.get(cookie)
        if session is not None:
            session.used = time.monotonic()
        return session

    async def log_in(self, user: str, password: str) -> str:
        """Connect as a user; return the cookie of the new session.

        Raises:
            AuthenticationFailed: the server refuses the user.
            TooMany: there are too many sessions.
        """
        self._end_idle()
        if len(self._by_cookie) >= SESSIONS_MAX:
            raise TooMany(f"{SESSIONS_MAX} people are logged in; the console allows no more")
        session = await self._open(self._connect(user, password))
        cookie = new_cookie()
        self._by_cookie[cookie] = session
        return cookie

    def log_out(self, cookie: str) -> None:
        """End a session. Its connection is closed."""
        session = self._by_cookie.pop(cookie, None)
        if session is not None:
            session.ended.set()

    def _end_idle(self) -> None:
        limit = time.monotonic() - IDLE_S_MAX
        for cookie in [each for each, one in self._by_cookie.items() if one.used < limit]:
            self.log_out(cookie)

    async def _open(self, db: Database) -> Session:
        assert self._tasks is not None, "the console is not running"
        refusal: list[HeadwaterError] = []
        session: Session | None = await self._tasks.start(self._hold, db, refusal)
        if session is None:
            raise refusal[0]
        return session

    async def _hold(
        self,
        db: Database,
        refusal: list[HeadwaterError],
        *,
        task_status: TaskStatus[Session | None],
    ) -> None:
        """Keep a database open until its session ends, in a task of its own."""
        started = False
        try:
            async with db:
                me = await db.connections.whoami()
                session = Session(db, me.user)
                started = True
                task_status.started(session)
                await session.ended.wait()
        except HeadwaterError as error:
            # A refused log-in ends this session, and no other.
            if not started:
                refusal.append(error)
                task_status.started(None)
