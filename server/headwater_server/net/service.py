"""The service: the state that all sessions of a server share.

It holds the engine, the settings, the group commit, the feeds and the set of sessions. It knows
whether clients must authenticate, and whether the server is shutting down. All rights are checked
in one place, `authorize`.
"""

import resource
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import (
    AuthenticationFailed,
    HeadwaterError,
    InvalidArgument,
    PermissionDenied,
    ShuttingDown,
    TooMany,
)
from headwater_protocol.limits import KIB
from headwater_server.engine.accounts import Account
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.rights import Rights, denied
from headwater_server.engine.transactions.searching_ahead import SearchesAhead
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.authorization import (
    RULES,
    SENT_AGAIN,
    WRITING,
    is_plainly_allowed,
    need_only_outcome,
)
from headwater_server.net.cluster.cluster import Cluster
from headwater_server.net.failures import Failures
from headwater_server.net.push.feeds import Feeds
from headwater_server.net.push.group_deliveries import GroupDeliveries
from headwater_server.net.push.key_source import KeyRange
from headwater_server.net.replication.replication import Replication
from headwater_server.net.session.account_changes import USERS_CAME, AccountChanges
from headwater_server.net.session.audit import AUDITED_WRITES, Audit
from headwater_server.net.session.authentication import Authentication
from headwater_server.net.session.login_attempts import Bursts, address_of
from headwater_server.net.session.long_requests import LongRequests
from headwater_server.net.session.memory_budget import MemoryBudget, default_size
from headwater_server.net.session.peer import Peer
from headwater_server.net.session.strangers import Strangers
from headwater_server.net.settings import ServerSettings, server_name
from headwater_server.net.tasks.backups import Backups
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.turns import Turn

_log = structlog.get_logger(__name__)


def _descriptors_max(settings: ServerSettings) -> int | None:
    """The number from which on a descriptor is reserved for files; None: there is no limit."""
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return None
    # The system assigns the lowest free descriptor. So a high number means that most are in use, by
    # connections or by files.
    return soft_limit - min(settings.descriptors_kept, soft_limit // 2)


def _strangers(settings: ServerSettings) -> Strangers:
    # A tenth of the connections is for those who have authenticated.
    return Strangers(
        count_max=settings.connections_max - settings.connections_max // 10,
        per_address_max=settings.unauthenticated_per_address_max,
    )


Handler = Callable[[Any, int, list[Any]], bytes | None]
"""Serves one operation: takes the session, the request's id and its arguments, and returns the
answer's frame, or None if the answer comes later."""


class Entered(NamedTuple):
    """The number of a session, and when it came, in seconds of the event loop's clock."""

    number: int
    at: float


class Searching(NamedTuple):
    """A request whose conditions are searched ahead, when that began, and for whom."""

    request_id: int
    searches: SearchesAhead
    began: float
    account: Account | None


class Service:
    """Shared by all sessions.

    Attributes:
        handlers: the handler of each operation.
        local_only: only this machine can connect, so users are optional.
        authentication_needed: every new connection must authenticate.
        tells_traces: whether anything tells to which trace a request belongs.
        stopping: no new connections, transactions and subscriptions are accepted.
        session_turn: the turn of the session that is being served.
        connections_turn: the turn of all connections that were ready together.
        monotonic: seconds of the event loop's clock.
        long_requests: requests that are evaluated in steps.
        searches: sessions whose oldest request is being searched ahead.
        sessions: all open sessions, the oldest first, each with its number and when it came.
        strangers: sessions without a finished hello and authentication.
        bursts: which of many equal log lines are written.
        account_changes: changes of users and their rights, on their way to the sessions.
        audit: the audit log.
        connections_total, refused: sessions that were opened, and refused, by error code.
        figures: by name, what tells further figures for `stats`.
        replication, cluster: the other nodes, as leader or follower.
    """

    replication: Replication  # set by the server, which makes it after the service
    cluster: Cluster | None

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        *,
        handlers: Mapping[str, Handler],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        turn_clock: Callable[[], float],
        processor_time: Callable[[], float] | None,
        group_commit: GroupCommit,
        subscriptions: Feeds[EventFilter],
        key_feeds: Feeds[KeyRange],
        group_deliveries: GroupDeliveries,
        backups: Backups,
        failures: Failures,
        local_only: bool = True,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.cluster = None
        self.clock = clock
        self.group_commit = group_commit
        self.subscriptions = subscriptions
        self.key_feeds = key_feeds
        self.group_deliveries = group_deliveries
        self.backups = backups
        self.failures = failures
        self.figures: dict[str, Callable[[], Any]] = {}
        failures.on_failure(self._stop_serving)
        self.handlers = handlers
        self.long_requests = LongRequests(
            engine,
            handlers,
            use=self._use,
            monotonic=monotonic,
            request_ms_max=settings.session.request_ms_max,
        )
        self.server_name: Final = server_name()
        self.local_only = local_only
        self.authentication_needed = engine.accounts.any() or not local_only
        self.audit = Audit(clock, settings.audit_log)
        self.memory_budget = self._open_memory_budget(monotonic)
        self._groups_size = 0
        self.session_turn = Turn(settings.session.turn_ms, turn_clock, processor_time)
        self.connections_turn = Turn(settings.turn_ms, turn_clock, processor_time)
        self.stopping = self.tells_traces = False
        # A dict, because the order of a set would differ between runs of a simulation.
        self.sessions: dict[Peer, Entered] = {}
        self.strangers = _strangers(settings)
        failed_max = settings.session.authentications_failed_max
        self.authentication = Authentication(
            engine, self.audit, self.strangers, failed_max=failed_max, monotonic=monotonic
        )
        self.bursts = Bursts(monotonic)
        self.account_changes = AccountChanges(
            engine,
            group_commit,
            self.audit,
            sessions=self.sessions,
            strangers=self.strangers,
            on_change=self._accounts_changed,
        )
        self.searches: dict[Peer, Searching] = {}
        self._departing: dict[Peer, float] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.monotonic = monotonic
        self.connections_total = 0
        self.refused: dict[str, int] = {}
        self.descriptors_max = _descriptors_max(settings)

    def _open_memory_budget(self, monotonic: Callable[[], float]) -> MemoryBudget:
        settings = self.settings
        # The rest is for what is not counted: objects, and blocks that the allocator cannot reuse.
        size_max = (settings.memory_size_max or default_size()) * 3 // 4
        # Transactions and what waits for the disk may take a part of the budget, even a small one.
        opened = self.engine.open_transactions
        opened.size_max = min(opened.size_max, size_max // 4)
        commits = self.group_commit
        commits.waiting_size_max = min(commits.waiting_size_max, size_max // 4)
        groups = self.engine.groups
        groups.windows_max = min(groups.windows_max, size_max // 8 // KIB)
        return MemoryBudget(
            size_max,
            stalled_s_max=settings.stalled_ms_max / 1000,
            unmoved_s_max=settings.unmoved_ms_max / 1000,
            monotonic=monotonic,
        )

    def _use(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers

    # Sessions.

    def check_descriptor(self, descriptor: int) -> None:
        """Refuse a connection whose socket has one of the last descriptors.

        Raises:
            TooMany: that descriptor is reserved for the files of the database.
        """
        if self.descriptors_max is not None and descriptor >= self.descriptors_max:
            raise TooMany(
                f"{len(self.sessions)} connections, and the remaining file descriptors are "
                "reserved for the data; ulimit -n raises the limit"
            )

    def check_room(self, peer: str) -> None:
        """Check that one more session may be opened, for a client at this address.

        Raises:
            TooMany, ShuttingDown: no more connections are accepted; see `refusal`.
        """
        self.check_running()
        if len(self.sessions) >= self.settings.connections_max:
            raise TooMany(
                f"{len(self.sessions)} connections; allowed are {self.settings.connections_max}"
            )
        self.strangers.check_room(peer)

    def note_refusal(self, peer: str, error: HeadwaterError) -> None:
        """Log that a connection was refused; of a burst from one address, the first."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        left_out = self.bursts.admit(f"refused {address_of(peer)}")
        if left_out is not None:
            _log.warning("connection refused", peer=peer, error=error.message, left_out=left_out)

    def enter(self, session: Peer) -> None:
        """Add a new session, which is not authenticated yet."""
        self.connections_total += 1
        self.sessions[session] = Entered(self.connections_total, self.monotonic())
        self.strangers.add(session, self.monotonic())

    @staticmethod
    def refusal(error: HeadwaterError) -> bytes:
        """The bytes to send to a connection that gets no session."""
        connection = ServerConnection()
        connection.close()
        return connection.error(0, error)

    def welcome(self, session: Peer) -> None:
        """The session has finished hello and authentication."""
        self.strangers.remove(session)
        self.account_changes.came(session)

    def close_session(self, session: Peer) -> None:
        """Release everything that a session holds. Its waiting commits continue, unanswered."""
        self.sessions.pop(session, None)
        self.searches.pop(session, None)
        self.long_requests.drop(session)
        self.strangers.remove(session)
        self._departing.pop(session, None)
        for channel in list(session.feeds.values()):
            channel.owner.lost(channel)
        rolled_back = self.engine.close_owner(session)
        self.engine.sequencer.hold_clock(session, None)
        self.replication.lost(session)
        if rolled_back:
            _log.debug("rolled back with the connection", session=str(session), count=rolled_back)

    def depart(self, session: Peer) -> None:
        """The session is ending; it only has to send the reason."""
        self.searches.pop(session, None)
        self.long_requests.drop(session)
        self.strangers.remove(session)
        self._departing[session] = self.monotonic()

    def do_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call this after that time, to the next tick of the maintenance."""
        self._later.append((self.monotonic() + seconds, call))

    def do_what_is_due(self) -> None:
        """Make the calls of `do_later` whose time has come."""
        now = self.monotonic()
        due = [call for at, call in self._later if at <= now]
        self._later = [(at, call) for at, call in self._later if at > now]
        for call in due:
            call()

    def end_slow_sessions(self) -> None:
        """End sessions that took too long to authenticate, or to read why they were ended.

        Also end sessions whose incomplete request or unread answers do not move.
        """
        self.count_memory()
        self.memory_budget.end_stalled()
        bound_ms = self.settings.session.hello_ms_max
        since = self.monotonic() - bound_ms / 1000
        for session in [session for session, left in self._departing.items() if left < since]:
            session.abort()
        for session in self.strangers.since(since):
            session.end(AuthenticationFailed(f"no hello and authentication within {bound_ms} ms"))

    def _stop_serving(self) -> None:
        """Answer every client as far as possible: the process ends after a failure."""
        self.stopping = True
        self.group_commit.abandon()
        for session in list(self.sessions):
            session.end(ShuttingDown("the server failed and is shutting down; connect again later"))

    # Rights.

    def authorize(
        self, operation: str, session: Peer, account: Account | None, arguments: list[Any]
    ) -> None:
        """Check that *account*, the session's, may do this. For every request if there are users.

        Raises:
            AuthenticationFailed: the session has no user.
            PermissionDenied: the user lacks a right.
        """
        if account is None:
            if session not in self.strangers:  # These may call hello and authenticate.
                raise AuthenticationFailed(f"{operation}: {USERS_CAME}")
            return
        is_long = self.searches or self.long_requests.running
        if is_long and self._goes_on(operation, session, arguments):
            return
        rights = account.rights
        if rights is not None and not rights.is_admin:
            if is_plainly_allowed(rights, operation, arguments):
                return
            try:
                self._check_rights(operation, session, rights, arguments)
            except PermissionDenied as error:
                self._note_denial(operation, session, error)
                raise PermissionDenied(
                    f"{operation}: {error.message}", details=dict(error.details)
                ) from None
        # Only now: a refused request could fill the audit log with writes that never happened.
        if operation in WRITING:
            writes: list[list[Any]] = arguments[WRITING[operation]]
            for write in writes:
                if write[0] in AUDITED_WRITES:
                    self.audit.record_write(session, arguments[0], write)

    def _goes_on(self, operation: str, session: Peer, arguments: list[Any]) -> bool:
        """Whether this is a further step of a request that was authorized for the same rights."""
        searching = self.searches.get(session) if self.searches else None
        if searching is not None:
            return searching.account is session.account
        running = self.long_requests.running.get(session)
        if running is None or running.account is session.account:
            return running is not None
        # What it may do has changed, so it begins again. A commit cannot: it has added its writes.
        self.long_requests.drop(session)
        if operation == "commit":
            self.engine.rollback(arguments[0], session)
        return False

    def _check_rights(
        self, operation: str, session: Peer, rights: Rights, arguments: list[Any]
    ) -> None:
        try:
            RULES[operation](rights, self.engine, arguments)
        except PermissionDenied:
            if operation not in SENT_AGAIN or not self._has_committed(session, arguments[0]):
                raise
            # It is sent again, and the first attempt was allowed: tell that it committed.
            need_only_outcome(operation, rights, self.engine, arguments)

    def _note_denial(self, operation: str, session: Peer, error: HeadwaterError) -> None:
        left_out = self.bursts.admit(f"denied {session.user} {operation}")
        if left_out is not None:
            _log.warning(
                "permission denied",
                session=str(session),
                operation=operation,
                why=error.message,
                left_out=left_out,
            )
            self.audit.record(
                "permission denied",
                session,
                operation=operation,
                why=error.message,
                left_out=left_out,
            )

    def _has_committed(self, session: Peer, transaction: bytes) -> bool:
        return self.engine.status(transaction, resolve=False).ticket.committed_by == (
            session.user_number
        )

    def check_answer(self, session: Peer, ticket: Ticket) -> None:
        """Check that the session's user may have the answer to a commit of before.

        Raises:
            PermissionDenied: somebody else committed it.
        """
        account = session.account
        if account is None or account.rights is None or account.rights.is_admin:
            return
        if ticket.committed_by not in (None, session.user_number):
            raise denied("admin", f"the answer to transaction {ticket.transaction.hex()} of others")

    def check_status(self, session: Peer, ticket: Ticket) -> None:
        """Check that the session's user may see the status of a transaction.

        Raises:
            PermissionDenied: somebody else appended to streams that the user may not read. The
                status has their names.
        """
        account = session.account
        if account is None or account.rights is None:
            return
        if ticket.committed_by not in (None, session.user_number):
            for stream in ticket.payload[4]:
                account.rights.need_stream("read", stream)

    def check_running(self) -> None:
        """Raise ShuttingDown if the server is shutting down."""
        if self.stopping:
            raise ShuttingDown("the server is shutting down; connect again later")

    def check_user_removal(self, name: str) -> None:
        """Refuse to remove the last user of a server that other machines can reach."""
        if not self.local_only and self.engine.accounts.is_last(name):
            raise InvalidArgument(
                f"{name!r} is the last user, and this server listens on more than loopback "
                "addresses: without users, nobody could connect"
            )

    def _accounts_changed(self) -> bool:
        self.authentication.forget_users()
        self.authentication_needed = self.engine.accounts.any() or not self.local_only
        return self.authentication_needed

    # Figures.

    def held_by_others(self) -> dict[str, int]:
        """Bytes that are held for clients beside what their connections are charged for."""
        return {
            "transactions": self.engine.open_transactions.size,
            "commits_waiting": self.group_commit.waiting_size,
            "subscriptions": self.subscriptions.size + self.key_feeds.size,
            "groups": self._groups_size + self.group_deliveries.size,
        }

    def count_memory(self) -> None:
        """Count what is held beside connections. Call this about once a second."""
        self._groups_size = self.engine.groups.held_size()
        self.memory_budget.note_others(
            sum(self.held_by_others().values()), connections=len(self.sessions)
        )

    def check_memory(self, what: str) -> None:
        """Refuse to open a subscription or a membership if too much is held beside connections.

        Raises:
            TooMany: it is half of the memory budget.
        """
        self.memory_budget.note_others(
            sum(self.held_by_others().values()), connections=len(self.sessions)
        )
        self.memory_budget.check_others(what)

    def stats(self) -> dict[str, Any]:
        """Figures of the server and its engine, by name."""
        return {
            **self.engine.stats(),
            "server": self.server_name,
            "time": self.clock(),
            "connections": len(self.sessions),
            "connections_total": self.connections_total,
            "connections_memory_size": self.memory_budget.used,
            "memory": {
                "limit": self.memory_budget.size_max,
                "connections": self.memory_budget.used,
                **self.held_by_others(),
            },
            "subscriptions": self.subscriptions.count,
            "group_members": self.group_deliveries.count,
            "commit_groups": self.group_commit.groups,
            "users": len(self.engine.accounts.names()),
            **{name: tell() for name, tell in self.figures.items()},
        }
