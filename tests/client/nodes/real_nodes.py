"""Real servers, a leader and its followers, for tests of the client on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import headwater
from headwater.cli.server_process import ServerProcess

WAIT_S_MAX = 60.0


@contextmanager
def real_nodes(
    directory: Path, *, followers: int = 1, synchronous: int = 0
) -> Iterator[list[ServerProcess]]:
    """A leader and followers, as processes; the leader comes first."""
    started: list[ServerProcess] = []
    try:
        for number in range(1 + followers):
            place = directory / f"node-{number}"
            place.mkdir()
            options = ("--follow", started[0].url) if started else ()
            if synchronous and not started:
                options = ("--sync-followers", str(synchronous))
            started.append(ServerProcess(place, options))
            started[-1].start()
        yield started
    finally:
        for server in reversed(started):
            server.stop()


def url_of(servers: list[ServerProcess], read: str = "leader") -> str:
    """The URL of all of them."""
    return f"headwater://{','.join(server.address for server in servers)}/?read={read}"


def promote(server: ServerProcess) -> None:
    """Make a follower the leader."""
    with headwater.connect_blocking(server.url) as db:
        assert db.promote().role == "leader"
