"""Settings of the server: every bound of the network side, with its unit and reason.

Settings of the data (history, checkpoints, open transactions) are in engine/settings.py. Limits
that both sides of a connection must know are in the protocol's limits.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from headwater_protocol.distribution import installed_version
from headwater_protocol.limits import KIB, MIB, PORT_DEFAULT
from headwater_server.engine.settings import EngineSettings

SECOND_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on. Port 0: any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ClientLogin(StrEnum):
    """What a client has to show, if the server knows an authority for clients' certificates."""

    BOTH = "certificate-and-password"
    EITHER = "certificate-or-password"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Bounds on one connection."""

    output_pause_size: int = 1 * MIB
    """Bytes of unread answers at which we stop reading the client's requests. Its subscriptions
    get no pushes either: they go back to reading the log."""

    output_resume_size: int = 256 * KIB
    """Bytes of unread answers at or below which we read requests again."""

    output_size_max: int = 64 * MIB
    """Bytes of unread answers above which the connection is closed. One answer may have a body of
    16 MiB, and answers that waited for a sync are added to it."""

    requests_waiting_max: int = 1024
    """Commits of a connection that may wait for a sync; further requests wait unread. Groups stay
    large, and one client cannot fill the memory with waiting answers."""

    transactions_max: int = 1024
    """Open transactions of one connection. Each pins the versions at its read view."""

    requests_per_turn_max: int = 64
    """Requests of a connection that are served before others get their turn: about half a
    millisecond of reads."""

    turn_ms: int = 2
    """Milliseconds after which no further request of a connection is served in its turn. A request
    may cost as much as thousands of others."""

    request_ms_max: int = 60 * SECOND_MS
    """How long a request may take that is evaluated in steps, between which other clients are
    served. Users may have limits of their own."""

    receive_size: int = 64 * KIB
    """Bytes of one read from a socket."""

    subscriptions_max: int = 1024
    """Subscriptions of one connection."""

    memberships_max: int = 1024
    """Memberships of one connection in consumer groups."""

    authentications_failed_max: int = 3
    """Wrong passwords after which the connection is closed."""

    hello_ms_max: int = 10 * SECOND_MS
    """How long a client may take for hello and authentication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """All settings of `headwater serve`."""

    data: str
    """The data directory; created if it does not exist."""

    listen: tuple[Address, ...] = (Address("127.0.0.1", PORT_DEFAULT),)
    """TCP addresses. While there is no user, only loopback addresses are allowed."""

    unix: str | None = None
    """Path of a Unix socket to listen on."""

    tls_certificate: str | None = None
    """PEM file with the certificate and its chain. With it, all TCP addresses speak TLS."""

    tls_key: str | None = None
    """PEM file with the private key, if it is not in the certificate's file."""

    tls_client_ca: str | None = None
    """PEM file with the authorities whose certificates of clients are accepted. None: clients are
    not asked for one."""

    tls_client_crl: str | None = None
    """PEM file with the lists of certificates that these authorities have revoked. None: no list is
    consulted."""

    tls_client_login: ClientLogin = ClientLogin.BOTH
    """What a client has to show on a TLS address, if there is such an authority."""

    backup_directory: str | None = None
    """The directory for backups; None disables them. Clients name a backup, not a path."""

    archive_directory: str | None = None
    """The directory to which the log is copied; None: it is not."""

    archive_interval_ms: int = 5 * SECOND_MS
    """How long a commit may wait until it is archived: what the loss of the disk may lose. A copy
    costs a few syncs of the archive's disk."""

    follow: str | None = None
    """The URL of the leader that this node follows, with user and password; None: it leads."""

    advertise: str | None = None
    """The URL at which other nodes and clients reach this node; None: it is not told."""

    log: str | None = None
    """Where the log of a cluster is, nats://…/STREAM; None: in the data directory alone."""

    log_replicas: int = 3
    """How many NATS servers keep the stream, at least. Fewer than three lose it with a machine."""

    log_monitor: tuple[str, ...] = ()
    """The monitoring addresses of the NATS servers, http://…, which are asked if they sync."""

    peer_user: str | None = None
    """The user as whom this node copies other nodes of the cluster; None: they have no users."""

    peer_password: str | None = None
    """That user's password."""

    synchronous_followers: int = 0
    """Followers that must have a commit durably before it is published and answered."""

    audit_log: str | None = None
    """A file to which the audit log is appended, one JSON object a line. None: no file."""

    http: Address | None = None
    """Address of the pages of metrics, health and readiness; None: there are none. They are plain
    HTTP, and everybody who reaches the address can read them."""

    slow_request_ms: int | None = None
    """Milliseconds from which on a request is logged as slow; None: none is."""

    spans: bool = False
    """Whether requests whose clients send their trace become spans, by OpenTelemetry's API."""

    scrub_interval_ms: int | None = 7 * 24 * 3600 * SECOND_MS
    """Milliseconds in which all files are read again, to find damage; None: they are not. Damage of
    what nobody reads would otherwise be found when every backup has it."""

    ready_file: str | None = None
    """A file that is written once the server listens, one address on each line. For scripts."""

    connections_max: int = 10_000
    """Open connections. Each costs one file descriptor; for their memory, see `memory_size_max`."""

    unauthenticated_per_address_max: int = 1_000
    """Connections of one address that have not finished hello and authentication. Enough for a
    machine whose programs all connect at once, and a small part of `connections_max`."""

    memory_size_max: int | None = None
    """Bytes of incomplete requests, waiting requests and unread answers, over all connections,
    not counting 4 KiB for each connection. None: a quarter of the memory of the machine or
    container, at most 1 GiB. Without this bound, 10,000 clients could make us hold 160 GB."""

    stalled_ms_max: int = 30 * SECOND_MS
    """While that memory is used up: how long a request may stay incomplete, or an answer unread,
    without any progress, before its connection is closed."""

    unmoved_ms_max: int = 600 * SECOND_MS
    """How long more than 4 KiB of an incomplete request, or of unread answers, may be held for a
    connection without any progress, before it is closed."""

    descriptors_kept: int = 600
    """File descriptors that are reserved for the files of the database: 256 for the state store,
    128 for each log, and some spare ones. Without them the next checkpoint would end the process.
    If the process may have only a few, half of them are reserved."""

    turn_ms: int = 10
    """Milliseconds after which no further connection is served in the turn of all connections that
    are ready. Each of the others then gets a turn of its own."""

    feeds_turn_ms: int = 2
    """Milliseconds after which feeds that are behind, or consumer groups, let others run."""

    accepts_per_turn_max: int = 64
    """Connections accepted before the open ones get their turn."""

    listen_backlog: int = 1024
    """Connections that the kernel queues until they are accepted."""

    maintenance_ms: int = 1 * SECOND_MS
    """How often maintenance ends idle transactions and slow logins, and prepares log space."""

    commits_waiting_size_max: int = 64 * MIB
    """Bytes of commits and of their results that wait for a sync, over all connections. Above this,
    connections with waiting commits are not read from, and an execute with reads is refused.
    Without it, clients that send faster than the disk writes would make each group larger than the
    one before."""

    disk_retry_ms: int = 1 * SECOND_MS
    """How long to wait before trying a full disk again."""

    rewrite_rest_ms: int = 60 * SECOND_MS
    """How long to wait between two rewrites of events that retention hides. They may be rare, since
    hidden events cost only disk space."""

    shutdown_ms_max: int = 5 * SECOND_MS
    """How long open transactions may take to end after SIGTERM. Container runtimes kill after 10
    seconds. The shutdown notice may take one more, and the last checkpoint needs the rest."""

    log_format: str = "console"
    """"console" for people, "json" for machines: one object on each line."""

    log_level: str = "info"
    """The lowest level that is logged: debug, info, warning, error."""

    session: SessionSettings = field(default_factory=SessionSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)


def server_name() -> str:
    """What the server calls itself to clients: its name and version."""
    version = installed_version()
    return "headwater" if version is None else f"headwater {version}"
