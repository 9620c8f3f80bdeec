"""Sessions: SESSION_ENGINE = "django_headwater.sessions".

A session is a key that expires with the session, so `clearsessions` has nothing to do. Its data is
what SESSION_SERIALIZER makes of it, signed.

    HEADWATER_SESSIONS = {
        "LOCATION": "headwater://localhost:4323",
        "OPTIONS": {"SPACE": "sessions"},     # and the arguments of headwater.connect_blocking
    }
"""

from typing import Any, Final

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

import headwater
from django_headwater.databases import database

SPACE_DEFAULT: Final = "sessions"

CREATE_ATTEMPTS_MAX: Final = 100
"""Attempts to find a session key that is not in use. The first one succeeds."""


class SessionStore(SessionBase):
    """One session. Saving a session that was deleted meanwhile raises UpdateError."""

    def __init__(self, session_key: str | None = None) -> None:
        configured = getattr(settings, "HEADWATER_SESSIONS", {})
        options = dict(configured.get("OPTIONS", {}))
        self._space: str = options.pop("SPACE", SPACE_DEFAULT)
        self._url: str = configured.get("LOCATION", "headwater://localhost:4323")
        self._connecting = options
        super().__init__(session_key)

    @property
    def database(self) -> headwater.BlockingDatabase:
        """The database that has the sessions, open."""
        return database(self._url, **self._connecting)

    def _key(self, session_key: str) -> tuple[str, str]:
        return self._space, session_key

    def load(self) -> dict[str, Any]:
        stored = None
        if self.session_key is not None:
            stored = self.database.get(self._key(self.session_key))
        if stored is None:
            self._session_key = None
            return {}
        return self.decode(stored)

    def exists(self, session_key: str | None) -> bool:
        if not session_key:
            return False
        batch = self.database.batch()
        place = batch.exists(self._key(session_key))
        return bool(self.database.execute(batch).results[place])

    def create(self) -> None:
        for _ in range(CREATE_ATTEMPTS_MAX):
            self._session_key = self._get_new_session_key()  # type: ignore[attr-defined]
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return
        raise RuntimeError(f"{CREATE_ATTEMPTS_MAX} new session keys were all in use")

    def save(self, must_create: bool = False) -> None:
        """Store the session until it expires.

        Raises:
            CreateError: *must_create*, and the key is in use.
            UpdateError: the session was deleted, or has expired, since it was loaded.
        """
        if self.session_key is None:
            self.create()
            return
        key = self._key(self.session_key)
        data = self.encode(self._get_session(no_load=must_create))  # type: ignore[attr-defined]
        ttl = self.get_expiry_age()
        if ttl <= 0:
            self.database.delete(key)
        elif must_create:
            if not self.database.put_if_absent(key, data, ttl=ttl):
                raise CreateError
        else:
            self.database.run(_replace, key, data, ttl)

    def delete(self, session_key: str | None = None) -> None:
        wanted = session_key or self.session_key
        if wanted:
            self.database.delete(self._key(wanted))

    @classmethod
    def clear_expired(cls) -> None:
        """Do nothing: the server deletes expired sessions by itself."""


def _replace(
    tx: headwater.BlockingTransaction, key: tuple[str, str], data: str, ttl: float
) -> None:
    if tx.get(key) is None:
        raise UpdateError
    tx.put(key, data, ttl=ttl)
