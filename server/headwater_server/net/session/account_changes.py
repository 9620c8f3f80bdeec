"""Changes of users and their rights: how a change reaches the sessions.

    planned ............ sync ............ durable
       |                                      |
       sessions of the user are not served    sessions get the new rights, or end

What is sequenced after a change must obey it. Otherwise a user could use a right that is being
taken away until the sync is done, and an administrator could give it back to itself. So sessions
that a change concerns are suspended until it is durable. Others are served as before.

A change that adds rights waits in the same way: it could still be lost in a crash. Only who adds
the first user goes on until then, and so can add others in the same exchange.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from headwater_protocol.errors import AuthenticationFailed, PermissionDenied
from headwater_server.engine.accounts import Account
from headwater_server.engine.engine import Engine
from headwater_server.engine.rights import Rights
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.authorization import need_channel
from headwater_server.net.session.audit import Audit
from headwater_server.net.session.peer import Peer
from headwater_server.net.session.strangers import Strangers
from headwater_server.net.tasks.group_commit import GroupCommit

_log = structlog.get_logger(__name__)

USERS_CAME: Final = (
    "users were added after this connection was opened; connect again as one of them"
)

Concerns = Callable[[Account | None], bool]
"""Whether a change concerns the sessions of an account; None: those without a user."""


def user(name: str) -> Concerns:
    """What concerns the sessions of a user."""
    return lambda account: account is not None and account.name == name


def role(name: str) -> Concerns:
    """What concerns the sessions of users that have a role."""
    return lambda account: account is not None and name in account.roles


def nobody_logged_in(account: Account | None) -> bool:
    """What concerns sessions without a user: there is one now, so they have to log in."""
    return account is None


class _Change:
    """A change that waits, like an answer, until it is durable."""

    size = 0

    def __init__(
        self, sequence: int, by: Peer, concerns: Concerns, applied: Callable[["_Change"], None]
    ) -> None:
        self.sequence = sequence
        self.taken = False
        self._by = by
        self._concerns = concerns
        self._applied = applied

    @property
    def owner(self) -> "_Change":
        return self

    def suspends(self, session: Peer) -> bool:
        """Whether a session must wait until the change is durable."""
        account = session.account
        return self._concerns(account) and not (account is None and session is self._by)

    def release(self, _: object) -> None:
        self._applied(self)

    def fail(self, _: object) -> None:
        """Do nothing: the process ends, and after the restart the change is durable or lost."""


class AccountChanges:
    """Brings changes of users and their rights to the sessions."""

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        audit: Audit,
        *,
        sessions: Mapping[Peer, Any],
        strangers: Strangers,
        on_change: Callable[[], bool],
    ) -> None:
        """*on_change* is called when a change is in force; it says whether users must log in."""
        self._engine = engine
        self._group_commit = group_commit
        self._audit = audit
        self._sessions = sessions
        self._strangers = strangers
        self._on_change = on_change
        self._planned: list[_Change] = []

    def planned(self, by: Peer, ticket: Ticket, what: str, name: str, concerns: Concerns) -> None:
        """A change was planned: suspend the sessions it concerns until it is durable."""
        if ticket.error is not None:
            return

        def applied(change: _Change) -> None:
            _log.info(what, name=name, by=str(by))
            self._audit.record(what, by, name=name)
            self._planned.remove(change)
            self._apply()

        self._planned.append(_Change(ticket.sequence, by, concerns, applied))
        for session in self._sessions:
            self.came(session)
        self._group_commit.wait_for(self._planned[-1])

    def came(self, session: Peer) -> None:
        """Suspend a session while a change concerns it, for example after its log-in."""
        if self._planned and not session.suspended and self._concerned(session):
            session.suspend(on=True)

    def _concerned(self, session: Peer) -> bool:
        if session in self._strangers:
            return False
        return any(change.suspends(session) for change in self._planned)

    def applied_by_leader(self) -> None:
        """This node follows: users or rights were changed at its leader."""
        self._apply()

    def _apply(self) -> None:
        accounts = self._engine.accounts
        authentication_needed = self._on_change()
        known: dict[str, Account | None] = {}
        # A session whose own request made the change gets its answer first: that waits for the
        # same sync, and a session ends only behind the answers that wait.
        for session in list(self._sessions):
            old = session.account
            if old is None:
                if authentication_needed and session not in self._strangers:
                    session.end(AuthenticationFailed(USERS_CAME))
                continue
            if old.name not in known:
                known[old.name] = accounts.find(old.name)
            account = known[old.name]
            if account is None or account.number != old.number:
                session.end(AuthenticationFailed(f"the user {old.name!r} was removed"))
                continue
            session.account = account
            if account.rights is not None and account.rights != old.rights:
                self._narrow(session, account.rights, old.rights)
        for session in list(self._sessions):
            if session.suspended and not self._concerned(session):
                session.suspend(on=False)

    def _narrow(self, session: Peer, rights: Rights, before: Rights | None) -> None:
        """Take from a session what its user may not do any more."""
        if before is not None and before.grants <= rights.grants:
            return
        # A transaction may have read, or written into its buffer, what is not allowed any more.
        self._engine.close_owner(session)
        if not rights.is_admin:
            self._engine.sequencer.hold_clock(session, None)
        self._end_forbidden_feeds(session, rights)

    def group_delivers_others(self) -> None:
        """A group delivers other events now: end the members that may not read them."""
        for session in list(self._sessions):
            account = session.account
            if account is not None and account.rights is not None:
                self._end_forbidden_feeds(session, account.rights)

    def _end_forbidden_feeds(self, session: Peer, rights: Rights) -> None:
        """End the feeds and memberships of a session that its user has no right to."""
        for channel in list(session.feeds.values()):
            try:
                need_channel(rights, self._engine, channel)
            except PermissionDenied as error:
                channel.owner.end(channel, error)
