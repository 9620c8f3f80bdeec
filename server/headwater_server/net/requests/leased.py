"""Reads at the leader of a cluster: only while it holds the lease.

A plain read at a leader sees every commit that was answered before it. Without the lease another
node may lead, so such a read is refused. `read_at_least` tells the commit that it shows, and is
served by every node at any time.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from headwater_protocol.errors import Unavailable
from headwater_server.net.service import Handler
from headwater_server.net.session.session import Session


def leased(handlers: Mapping[str, Handler], reads: Mapping[str, Handler]) -> dict[str, Handler]:
    """The handlers of a node of a cluster; *reads* are those that need the lease."""
    return {**handlers, **{name: partial(_leased, handler) for name, handler in reads.items()}}


def _leased(
    handler: Handler, session: Session, request_id: int, arguments: list[Any]
) -> bytes | None:
    service = session.service
    cluster = service.cluster
    if service.engine.leadership.leads and cluster is not None and not cluster.has_lease:
        raise Unavailable(
            "this node leads the cluster, and its lease has run out: the log does not answer. "
            "Another node may lead; read_at_least is served"
        )
    return handler(session, request_id, arguments)
