"""Requests between nodes, and on nodes: following, copies, promotion, waiting for a commit."""

from typing import Any

from headwater_server.net.session.session import Session
from headwater_server.storage.wal.interface import WalIndex


def node(session: Session, request_id: int, _arguments: list[Any]) -> bytes:
    """The role of this node, and how far it is behind."""
    return session.connection.answer(request_id, session.service.replication.node())


def wait_commit(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
    """Answer once a commit is published here."""
    commit, wait_ms = arguments
    session.service.check_running()
    return session.service.replication.commit_waits.ask(session, request_id, commit, wait_ms)


def replicate(session: Session, request_id: int, arguments: list[Any]) -> bytes:
    """A follower greets its leader."""
    name, epoch, index, end, leader = arguments
    replication = session.service.replication
    session.service.check_running()
    answer = replication.shipping.greet(session, name, epoch, index, end, leader)
    replication.copies.ended(name, index)
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
