"""The databases of this process: one for each URL and its options, opened at the first use.

All threads share one, over as many connections as they need at once. A forked child opens
connections of its own. Nothing is closed at the end of a request.
"""

import atexit
import threading
from typing import Any

import headwater

_lock = threading.Lock()
_open: dict[tuple[str, str], headwater.BlockingDatabase] = {}


def database(url: str = "headwater://localhost:4323", **options: Any) -> headwater.BlockingDatabase:
    """The open database of a URL. The same arguments give the same object.

    Args:
        url: as for `headwater.connect_blocking`.
        options: its other arguments, such as `user`, `ca_file` or `retry_timeout`.

    Raises:
        ConnectionLost: no server answered within `retry_timeout`.
        InvalidArgument: the URL or an option is invalid.
    """
    name = (url, repr(sorted(options.items())))
    found = _open.get(name)
    if found is not None:
        return found
    with _lock:
        if name not in _open:
            options.setdefault("client_name", "django")
            opened = headwater.connect_blocking(url, **options)
            opened.__enter__()
            _open[name] = opened
        return _open[name]


def close_all() -> None:
    """Close all databases of this process. The next use opens a new one."""
    with _lock:
        while _open:
            _open.popitem()[1].close()


atexit.register(close_all)
