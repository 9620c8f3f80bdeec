"""Settings of the server: every bound that the network side keeps, with its unit and reason.

What concerns the data (history, checkpoints, open transactions) stands in engine/settings.py;
what both sides of a connection must know, in the protocol's limits.
"""

from dataclasses import dataclass, field
from typing import Final

from headwater_protocol.limits import KIB, MIB, PORT_DEFAULT
from headwater_server.engine.settings import EngineSettings

SECOND_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on. Port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What one connection may cost."""

    output_pause_size: int = 1 * MIB
    """Bytes of answers not yet taken by the client at which its requests are left unread. A
    subscription is not pushed to either: it goes back to reading the log."""

    output_resume_size: int = 256 * KIB
    """Bytes of answers to which it must fall before requests are read again."""

    output_size_max: int = 64 * MIB
    """Bytes of answers not yet taken at which the connection is closed. One request may answer
    with a body of 16 MiB, and answers that waited for a sync come on top."""

    requests_waiting_max: int = 1024
    """Commits of a connection that may wait for a sync; further requests wait unread. A group
    is then still large, and one client cannot fill the memory with answers to come."""

    transactions_max: int = 1024
    """Open transactions of one connection. Each pins the versions at its read view."""

    requests_per_turn_max: int = 64
    """Requests of a connection that are served before the others get their turn: about half a
    millisecond of reads."""

    receive_size: int = 64 * KIB
    """Bytes that are taken from a socket at once."""

    subscriptions_max: int = 1024
    """Subscriptions of one connection."""

    memberships_max: int = 1024
    """Memberships of one connection in consumer groups."""

    authentications_failed_max: int = 3
    """Wrong passwords after which the connection is closed."""

    hello_ms_max: int = 10 * SECOND_MS
    """How long a stranger may take until it has said hello and proved who it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything that `headwater serve` can be told."""

    data: str
    """The data directory; it is made if it does not exist."""

    listen: tuple[Address, ...] = (Address("127.0.0.1", PORT_DEFAULT),)
    """TCP addresses. While there is no user, only loopback addresses are allowed."""

    unix: str | None = None
    """Path of a Unix socket to listen on as well."""

    tls_certificate: str | None = None
    """PEM file with the certificate and its chain. With it, all TCP addresses speak TLS."""

    tls_key: str | None = None
    """PEM file with the private key, if it is not in the certificate's file."""

    backup_directory: str | None = None
    """Where backups are made. Without one, there are none: clients name a backup, not a path."""

    ready_file: str | None = None
    """A file that is written once the server listens: one line an address. For start scripts."""

    connections_max: int = 10_000
    """Open connections. Each costs one file descriptor; for their memory, see `memory_size_max`."""

    memory_size_max: int | None = None
    """Bytes of incomplete requests, waiting requests and answers not yet taken, over all
    connections, beside 64 KiB that each connection has free. None: a quarter of the memory of the
    machine or container, at most 1 GiB. Without it, 10,000 clients could make us hold 160 GB."""

    stalled_ms_max: int = 30 * SECOND_MS
    """While that memory is used up: how long a request may stay incomplete, or an answer not
    taken, without any progress, until its connection is closed."""

    descriptors_kept: int = 600
    """File descriptors that connections leave to the files of the database: 256 for the state
    store, 128 for each log, and room. Without them the next checkpoint would be the end of the
    process. If the process may have few, connections leave half of them."""

    accepts_per_turn_max: int = 64
    """Connections that are accepted before the open ones get their turn."""

    listen_backlog: int = 1024
    """Connections that the kernel keeps for us until they are accepted."""

    maintenance_ms: int = 1 * SECOND_MS
    """How often idle transactions are ended, the disk is looked at, strangers are sent away."""

    commits_waiting_size_max: int = 64 * MIB
    """Bytes of commits that wait for a sync, over all connections, above which a connection
    that has some waiting is not read from. Without it, clients that send faster than the disk
    writes would make each group larger than the one before."""

    disk_retry_ms: int = 1 * SECOND_MS
    """How long to wait before a full disk is tried again."""

    rewrite_rest_ms: int = 60 * SECOND_MS
    """How long to wait between two walks over the streams of which something is hidden: hidden
    events are in nobody's way."""

    shutdown_ms_max: int = 10 * SECOND_MS
    """How long running transactions may take to end after SIGTERM. Init systems and container
    runtimes kill after 10 to 90 seconds, and the last checkpoint comes on top."""

    log_format: str = "console"
    """"console" for people, "json" for machines: one object a line."""

    log_level: str = "info"
    """The least level that is logged: debug, info, warning, error."""

    session: SessionSettings = field(default_factory=SessionSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
