"""Requests between nodes, and on nodes: following, copies, promotion, waiting for a commit."""

from collections.abc import Mapping
from typing import Any

from headwater_protocol.answers import answer_in
from headwater_protocol.errors import InvalidArgument, TooLarge
from headwater_protocol.operations import IN_TRANSACTION
from headwater_server.net.cluster.cluster import Cluster
from headwater_server.net.replication.shipping import FOLLOWS, Greeting
from headwater_server.net.service import Handler
from headwater_server.net.session.session import Session
from headwater_server.storage.wal.interface import WalIndex


def node(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The role of this node, and how far it is behind."""
    return session.connection.answer(request_id, session.service.replication.node())


def wait_commit(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Answer once a commit is published here."""
    commit, wait_ms = arguments
    session.service.check_running()
    session.service.replication.check_shared()
    return session.service.replication.commit_waits.ask(session, request_id, commit, wait_ms)


def read_at_least(
    reads: Mapping[str, Handler], session: Session, request_id: int, arguments: list[Any]
) -> bytes | None:
    """Read once a commit is published here; *reads* are the handlers of the reads."""
    commit, request, wait_ms = arguments
    service = session.service
    service.replication.check_shared()
    published = service.engine.published
    if published < commit:
        service.check_running()
        service.replication.commit_waits.hold(session, request_id, arguments, wait_ms)
        return None
    name, *rest = request
    frame = reads[name](session, request_id, [None, *rest] if name in IN_TRANSACTION else rest)
    assert frame is not None, f"{name} is answered later"
    try:
        return answer_in(request_id, frame, published, service.replication.epoch)
    except TooLarge:
        # The read took the request off the open ones, and it still needs an answer.
        session.connection.in_flight[request_id] = "read_at_least"
        raise


def replicate(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A follower greets its leader, or a new leader its former one."""
    greeting = Greeting(*arguments)
    replication = session.service.replication
    session.service.check_running()
    answer = replication.shipping.greet(session, greeting)
    if greeting.role == FOLLOWS:
        replication.copies.ended(greeting.node, greeting.index)
    return session.connection.answer(request_id, answer)


def log_read(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Entries of the log; an empty answer comes later."""
    name, after, size_max, wait_ms = arguments
    session.service.check_running()
    shipping = session.service.replication.shipping
    return shipping.read(session, request_id, name, WalIndex(after), size_max, wait_ms)


def copy_begin(session: Session, request_id: int, arguments: list[Any]) -> None:
    """Keep the files of one commit; answered after a checkpoint."""
    name, copy = arguments
    session.service.check_running()
    session.service.replication.copies.begin(session, request_id, name, copy)


def copy_read(session: Session, request_id: int, arguments: list[Any]) -> None:
    """A part of a file of a copy."""
    copy, file, offset, size = arguments
    session.service.check_running()
    session.service.replication.copies.read(session, request_id, copy, (file, offset, size))


def promote(session: Session, request_id: int, _arguments: list[Any]) -> bytes | None:
    """Make this node the leader; answered once it is."""
    session.service.check_running()
    session.service.audit.record("promotion", session)
    return session.service.replication.promote(session, request_id)


def cluster_status(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The nodes of the cluster, and its stream."""
    return session.connection.answer(request_id, _cluster(session, "cluster_status").status())


def cluster_resign(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """Let another node lead."""
    _cluster(session, "cluster_resign").resign()
    session.service.audit.record("resignation", session)
    return session.connection.answer(request_id, None)


def _cluster(session: Session, operation: str) -> Cluster:
    session.service.check_running()
    cluster = session.service.cluster
    if cluster is None:
        raise InvalidArgument(f"{operation}: this server is not a node of a cluster")
    return cluster
