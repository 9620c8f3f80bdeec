"""The cache backend.

    CACHES = {
        "default": {
            "BACKEND": "django_headwater.cache.HeadwaterCache",
            "LOCATION": "headwater://localhost:4323",
            "OPTIONS": {"SPACE": "cache"},
        }
    }

An int is stored as a number, so that `incr` is one atomic operation of the server. Everything else
is pickled, as Django's other backends do.
"""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured

import headwater
from django_headwater.databases import database

NAME_SIZE_MAX: Final = 4096
"""UTF-8 bytes of a name that is stored as it is. A longer one is stored as its hash."""

NUMBER_MAX: Final = 2**63 - 1
"""The largest int that the server can add to."""

TIMEOUT_MAX: Final = 10.0 * 365 * 24 * 3600
"""Seconds. A longer timeout is cut to this."""

BATCH_ITEMS_MAX: Final = 1000
BATCH_SIZE_MAX: Final = 4 * 2**20
"""Items and bytes that are sent together by the operations on many keys."""

RETRY_TIMEOUT_DEFAULT: Final = 2.0
"""Seconds that a page waits for a server that is away. Without a cache, it is slow but complete."""

_OURS: Final = ("SPACE", "MAX_ENTRIES", "CULL_FREQUENCY")

_Encoded = tuple[str, str]


class HeadwaterCache(BaseCache):
    """A cache in a Headwater database.

    OPTIONS are `SPACE`, the first member of all keys ("cache" by default); `MAX_ENTRIES` and
    `CULL_FREQUENCY`, as Django documents them, where without MAX_ENTRIES there is no limit; and the
    arguments of `headwater.connect_blocking`.

    Methods raise `HeadwaterError` if the server cannot be reached within `retry_timeout`.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS", {}))
        self._space = options.get("SPACE", "cache")
        if not isinstance(self._space, str):
            raise ImproperlyConfigured(f"SPACE of a cache must be a str, got {self._space!r:.80}")
        self._is_limited = "MAX_ENTRIES" in options or "max_entries" in params
        self._url = location or "headwater://localhost:4323"
        connecting = {name: value for name, value in options.items() if name not in _OURS}
        self._connecting = {"retry_timeout": RETRY_TIMEOUT_DEFAULT} | connecting

    @property
    def database(self) -> headwater.BlockingDatabase:
        """The database that has the entries, open."""
        return database(self._url, **self._connecting)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        stored = self.database.get(self._key(key, version))
        return default if stored is None else _decoded(stored)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        encoded = {key: self._key(key, version) for key in keys}
        found: dict[Any, Any] = {}
        for part in _parts(encoded):
            stored = self.database.get_many([encoded[key] for key in part])
            found |= {k: _decoded(v) for k, v in zip(part, stored, strict=True) if v is not None}
        return found

    def has_key(self, key: Any, version: int | None = None) -> bool:
        batch = self.database.batch()
        place = batch.exists(self._key(key, version))
        return bool(self.database.execute(batch).results[place])

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        encoded, data, ttl = self._key(key, version), _encoded(value), self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            self.database.delete(encoded)
            return
        self._cull()
        self.database.put(encoded, data, ttl=ttl)

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> list[Any]:
        """Set several entries, up to 1,000 or 4 MiB in a transaction. Returns an empty list."""
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            self.delete_many(data, version)
            return []
        entries = [(self._key(key, version), _encoded(value)) for key, value in data.items()]
        self._cull()
        batch, count, size = self.database.batch(), 0, 0
        for encoded, stored in entries:
            batch.put(encoded, stored, ttl=ttl)
            count += 1
            size += len(stored) if isinstance(stored, bytes) else 8
            if count == BATCH_ITEMS_MAX or size >= BATCH_SIZE_MAX:
                self.database.execute(batch)
                batch, count, size = self.database.batch(), 0, 0
        if count:
            self.database.execute(batch)
        return []

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return not self.has_key(key, version)
        encoded, data = self._key(key, version), _encoded(value)
        self._cull()
        return bool(self.database.put_if_absent(encoded, data, ttl=ttl))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        ttl = self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return self.delete(key, version)
        return bool(self.database.touch(self._key(key, version), ttl=ttl))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a number, which keeps its time. Returns the sum.

        Raises:
            ValueError: the key is absent.
            TypeError: its value is no number.
        """
        encoded = self._key(key, version)
        batch = self.database.batch()
        batch.require_number(encoded, at_least=-NUMBER_MAX)
        place = batch.get(encoded)
        batch.add(encoded, delta)
        try:
            before: int = self.database.execute(batch).results[place]
        except (headwater.ConditionFailed, headwater.NotANumber, headwater.InvalidArgument):
            return self._incr_pickled(key, encoded, delta)
        return before + delta

    def _incr_pickled(self, key: Any, encoded: _Encoded, delta: int) -> int:
        """Add to what only Python can add to: absent keys, text, numbers above 64 bits."""

        def add(tx: headwater.BlockingTransaction) -> Any:
            entry = tx.get_entry(encoded)
            if entry is None:
                raise ValueError(f"Key {key!r} not found")
            total = _decoded(entry.value) + delta
            tx.put(encoded, _encoded(total), expires_at=entry.expires_at)
            return total

        total: int = self.database.run(add)
        return total

    def delete(self, key: Any, version: int | None = None) -> bool:
        encoded = self._key(key, version)
        batch = self.database.batch()
        place = batch.exists(encoded)
        batch.delete(encoded)
        return bool(self.database.execute(batch).results[place])

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        encoded = [self._key(key, version) for key in keys]
        for part in _parts(encoded):
            batch = self.database.batch()
            for each in part:
                batch.delete(each)
            self.database.execute(batch)

    def clear(self) -> None:
        """Delete all entries of the space, of every KEY_PREFIX and version."""
        self.database.delete_range((self._space,))

    def _key(self, key: Any, version: int | None) -> _Encoded:
        name = self.make_and_validate_key(key, version=version)
        data = name.encode(errors="surrogatepass")
        if len(data) > NAME_SIZE_MAX:
            return self._space, "#" + hashlib.sha256(data).hexdigest()
        return self._space, name

    def _ttl(self, timeout: Any) -> float | None:
        """Seconds, not above 0 if the entry shall not be stored, or None for no end."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else min(float(timeout), TIMEOUT_MAX)

    def _cull(self) -> None:
        """If there is a limit and it is reached, delete one of CULL_FREQUENCY entries."""
        if not self._is_limited or self.database.count((self._space,)) < self._max_entries:
            return
        if self._cull_frequency == 0:
            self.clear()
            return
        keys = self.database.scan((self._space,), values=False)
        for part in _parts(islice(keys, 0, None, self._cull_frequency)):
            batch = self.database.batch()
            for key in part:
                batch.delete(key)
            self.database.execute(batch)


def _encoded(value: Any) -> int | bytes:
    # A bool is an int, too, but would come back as a number.
    if type(value) is int and -NUMBER_MAX <= value <= NUMBER_MAX:
        return value
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _decoded(stored: Any) -> Any:
    # Only those with the right to write into the space can choose what is unpickled.
    return pickle.loads(stored) if isinstance(stored, bytes) else stored  # noqa: S301


def _parts(items: Iterable[Any]) -> Iterable[list[Any]]:
    remaining = iter(items)
    while part := list(islice(remaining, BATCH_ITEMS_MAX)):
        yield part
