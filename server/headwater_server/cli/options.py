"""The settings of `serve`: from options, then HEADWATER_* variables, then a TOML file.

Every setting has one name in three spellings: `--history-window`, `HEADWATER_HISTORY_WINDOW`,
and `history-window` in the file. click looks them up in that order, and shows the default. In the
file, settings are at the top or in a table [serve]; tables of other commands are ignored.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from headwater_protocol.limits import MIB, PORT_DEFAULT
from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.net import logs
from headwater_server.net.cluster.starting import parse_log_address
from headwater_server.net.session.memory_budget import SIZE_MIN
from headwater_server.net.settings import (
    SECOND_MS,
    Address,
    ClientLogin,
    ServerSettings,
    SessionSettings,
)

F = TypeVar("F", bound=Callable[..., Any])

_SERVER = ServerSettings(data="")
_ENGINE = EngineSettings()
_PORT_MAX = 65535
_HOUR_MS = 3600 * SECOND_MS

_OF_CLIENTS = frozenset({"url", "user", "password", "ca-file", "cert-file", "key-file", "timeout"})
"""Settings of clients, at the top of the same file."""


def parse_address(text: str) -> Address:
    """HOST:PORT, HOST, :PORT, [IPV6]:PORT. No host, or "*", means all addresses of this machine."""
    host, separator, digits = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, digits = text, str(PORT_DEFAULT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise click.BadParameter(
            f"{text!r}: write an IPv6 address in brackets, as in [::1]:{PORT_DEFAULT}"
        )
    if not (digits.isascii() and digits.isdigit() and int(digits) <= _PORT_MAX):
        raise click.BadParameter(f"{text!r}: the port is a number from 0 to {_PORT_MAX}")
    return Address("" if host == "*" else host, int(digits))


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the file's settings the defaults of this command."""
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", ctx, param) from error
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{path}: not valid TOML: {error}", ctx, param) from error
    known = {
        option.opts[0].removeprefix("--"): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in ("config", "help")
    }
    own = settings.pop(ctx.command.name or "", {})
    if not isinstance(own, dict):
        raise click.BadParameter(f"{path}: {ctx.command.name!r} is not a table", ctx, param)
    defaults: dict[str, Any] = {}
    for name, value in [*settings.items(), *own.items()]:
        option = known.get(name)
        if option is not None and option.name is not None:
            if option.multiple and isinstance(value, str):
                value = [value]
            defaults[option.name] = value
        elif name in own or not (isinstance(value, dict) or name in _OF_CLIENTS):
            # Refuse unknown names: a mistyped one must not leave a setting at its default.
            raise click.BadParameter(
                f"{path}: no setting {name!r}; the settings are {', '.join(sorted(known))}",
                ctx,
                param,
            )
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _readable(_ctx: click.Context, _param: click.Parameter, path: str) -> str:
    """Refuse a path that is not UTF-8: RocksDB cannot open it, and messages could not name it."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"{path!r} is not UTF-8") from error
    return path


def _option(name: str, what: str, **rest: Any) -> Callable[[F], F]:
    variable = "HEADWATER_" + name.upper().replace("-", "_")
    rest.setdefault("show_default", rest.get("default") is not None)
    return click.option(f"--{name}", envvar=variable, show_envvar=True, help=what, **rest)


def _seconds(name: str, default: float, what: str, *, zero: bool = False) -> Callable[[F], F]:
    return _option(
        name,
        what,
        type=click.FloatRange(min=0, min_open=not zero),
        default=default,
        metavar="SECONDS",
    )


def _count(
    name: str, default: int, what: str, metavar: str = "NUMBER", *, least: int = 1
) -> Callable[[F], F]:
    return _option(name, what, type=click.IntRange(min=least), default=default, metavar=metavar)


_OPTIONS: tuple[Callable[[F], F], ...] = (
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="HEADWATER_CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file with settings, named like the options.",
    ),
    _option(
        "data",
        "Data directory; created if it does not exist.",
        required=True,
        metavar="DIR",
        callback=_readable,
    ),
    _option(
        "listen",
        "Address to listen on; may be repeated (in the variable: separated by spaces). Port 0: any "
        "free port.",
        type=parse_address,
        multiple=True,
        default=[str(address) for address in _SERVER.listen],
        metavar="HOST:PORT",
    ),
    _option("unix", "Unix socket to listen on.", metavar="PATH"),
    _option(
        "tls-cert",
        "Certificate and its chain, PEM. All --listen addresses use TLS.",
        metavar="FILE",
    ),
    _option("tls-key", "Private key, PEM, if it is not in the same file.", metavar="FILE"),
    _option(
        "http",
        "Address of the HTTP pages /metrics, /healthz and /readyz. Everybody who reaches it can "
        "read them.",
        type=parse_address,
        metavar="HOST:PORT",
    ),
    _option(
        "slow-request",
        "Log requests that take this long or longer, and what they did.",
        type=click.IntRange(min=0),
        metavar="MS",
    ),
    _option(
        "spans",
        "Make OpenTelemetry spans of requests whose clients send their trace. Start the server "
        "with opentelemetry-instrument, which configures where spans go.",
        is_flag=True,
        default=False,
        show_default=False,
    ),
    _option(
        "tls-client-ca",
        "Certificates of the authorities, PEM, whose clients' certificates are accepted.",
        metavar="FILE",
    ),
    _option(
        "tls-client-crl",
        "Lists of revoked certificates, PEM: a current one of each of these authorities.",
        metavar="FILE",
    ),
    _option(
        "tls-client-login",
        "What clients have to show on TLS addresses, with --tls-client-ca.",
        type=click.Choice([each.value for each in ClientLogin]),
        default=_SERVER.tls_client_login.value,
    ),
    _option(
        "scrub-interval",
        "Period in which all files are read again, to find damage; 0: never.",
        type=click.FloatRange(min=0),
        default=(_SERVER.scrub_interval_ms or 0) / _HOUR_MS,
        metavar="HOURS",
    ),
    _option("audit-log", "File to append the audit log to, as JSON lines.", metavar="FILE"),
    _option(
        "backup-dir", "Directory for backups; without it, backups are disabled.", metavar="DIR"
    ),
    _option(
        "archive",
        "Directory to which the log is copied, on another disk; it must exist.",
        metavar="DIR",
    ),
    _seconds(
        "archive-interval",
        _SERVER.archive_interval_ms / SECOND_MS,
        "How long a commit may wait until it is archived.",
    ),
    _count(
        "log-kept",
        _ENGINE.log_kept_size_max // MIB,
        "Size of the log above which nothing is kept for an archive or a follower that is away.",
        "MIB",
    ),
    _option(
        "follow",
        "Follow the leader at this URL: copy it, then apply its commits. The user needs the right "
        "replicate.",
        metavar="URL",
    ),
    _option(
        "log",
        "Be a node of a cluster whose log is this stream of NATS JetStream; it is made if it is "
        "missing.",
        metavar="nats://HOST,…/STREAM",
    ),
    _count(
        "log-replicas",
        _SERVER.log_replicas,
        "NATS servers that must keep the stream; fewer than three lose it with one machine.",
    ),
    _option(
        "log-monitor",
        "Monitoring address of a NATS server, http://HOST:8222, which is asked at the start if it "
        "syncs each message; may be repeated (in the variable: separated by spaces).",
        multiple=True,
        metavar="URL",
    ),
    _option(
        "peer-user",
        "User with the right replicate as whom this node copies the other nodes of its cluster.",
        metavar="NAME",
    ),
    _option("peer-password", "That user's password.", metavar="PASSWORD"),
    _option(
        "advertise",
        "URL at which other nodes and clients reach this node.",
        metavar="URL",
    ),
    _option(
        "sync-followers",
        "Followers that must have a commit on their disks before it is answered.",
        type=click.IntRange(min=0),
        default=_SERVER.synchronous_followers,
        metavar="NUMBER",
    ),
    _option(
        "ready-file",
        "File written once the server listens, one address on each line.",
        metavar="FILE",
    ),
    _option(
        "log-format",
        "Log format: for people or for machines.",
        type=click.Choice(logs.FORMATS),
        default=_SERVER.log_format,
    ),
    _option(
        "log-level",
        "Lowest level that is logged.",
        type=click.Choice(logs.LEVELS),
        default=_SERVER.log_level,
    ),
    _count("connections-max", _SERVER.connections_max, "Bound on open connections."),
    _option(
        "memory-max",
        "Memory for incomplete requests and unread answers, over all connections.",
        type=click.IntRange(min=SIZE_MIN // MIB),
        metavar="MIB",
        show_default="a quarter of the memory, at most 1024",
    ),
    _count(
        "transactions-max",
        _ENGINE.transactions_max,
        "Bound on open transactions, over all connections.",
    ),
    _seconds(
        "transaction-idle",
        _ENGINE.transaction_idle_us_max / SECOND_US,
        "How long a transaction may wait for its client.",
    ),
    _seconds(
        "transaction-age",
        _ENGINE.transaction_age_us_max / SECOND_US,
        "How long a transaction may stay open, at most --transaction-retention.",
    ),
    _seconds(
        "request-time",
        _SERVER.session.request_ms_max / SECOND_MS,
        "How long a request may take, if its user has no limit of its own.",
    ),
    _seconds(
        "history-window",
        _ENGINE.history_window_us / SECOND_US,
        "How far back all commits can be read.",
        zero=True,
    ),
    _seconds(
        "transaction-retention",
        _ENGINE.transaction_retention_us / SECOND_US,
        "How long the status of a transaction is known, and who committed it.",
    ),
    _count(
        "snapshots-kept",
        _ENGINE.snapshots_kept,
        "Snapshots kept of each stream, name and schema; 0: all.",
        least=0,
    ),
    _count(
        "checkpoint-size",
        _ENGINE.memtable_size_max // MIB,
        "Committed data at which a checkpoint begins; memory may hold up to three times as much.",
        "MIB",
    ),
    _count(
        "checkpoint-commits",
        _ENGINE.memtable_commits_max,
        "Commits at which a checkpoint begins; a restart replays up to three times as many.",
    ),
    _seconds(
        "checkpoint-age",
        _ENGINE.checkpoint_age_us_max / SECOND_US,
        "How long a commit may wait for a checkpoint, which frees the room of removed data.",
    ),
    _seconds(
        "shutdown-grace",
        _SERVER.shutdown_ms_max / SECOND_MS,
        "How long open transactions may take to end after SIGTERM.",
    ),
)


def server_options(command: F) -> F:
    """Add all options of `serve` to a function that takes them as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_from(values: dict[str, Any]) -> ServerSettings:
    """Build the settings from the values of the options."""
    if values["tls_key"] is not None and values["tls_cert"] is None:
        raise click.UsageError("--tls-key without --tls-cert")
    if values["tls_client_ca"] is not None and values["tls_cert"] is None:
        raise click.UsageError("--tls-client-ca without --tls-cert")
    if values["tls_client_crl"] is not None and values["tls_client_ca"] is None:
        raise click.UsageError("--tls-client-crl without --tls-client-ca")
    if not values["listen"] and values["unix"] is None:
        raise click.UsageError("nothing to listen on: give --listen or --unix")
    if values["log"] is not None:
        if values["follow"] is not None or values["sync_followers"]:
            raise click.UsageError("--log does not go with --follow or --sync-followers")
        parse_log_address(values["log"])
    return ServerSettings(
        data=values["data"],
        listen=tuple(values["listen"]),
        unix=values["unix"],
        tls_certificate=values["tls_cert"],
        tls_key=values["tls_key"],
        http=values["http"],
        slow_request_ms=values["slow_request"],
        spans=values["spans"],
        tls_client_ca=values["tls_client_ca"],
        tls_client_crl=values["tls_client_crl"],
        tls_client_login=ClientLogin(values["tls_client_login"]),
        scrub_interval_ms=round(values["scrub_interval"] * _HOUR_MS) or None,
        audit_log=values["audit_log"],
        backup_directory=values["backup_dir"],
        archive_directory=values["archive"],
        follow=values["follow"],
        log=values["log"],
        log_replicas=values["log_replicas"],
        log_monitor=tuple(values["log_monitor"]),
        peer_user=values["peer_user"],
        peer_password=values["peer_password"],
        advertise=values["advertise"],
        synchronous_followers=values["sync_followers"],
        archive_interval_ms=round(values["archive_interval"] * SECOND_MS),
        ready_file=values["ready_file"],
        connections_max=values["connections_max"],
        memory_size_max=None if values["memory_max"] is None else values["memory_max"] * MIB,
        shutdown_ms_max=round(values["shutdown_grace"] * SECOND_MS),
        log_format=values["log_format"],
        log_level=values["log_level"],
        session=SessionSettings(request_ms_max=round(values["request_time"] * SECOND_MS)),
        engine=EngineSettings(
            history_window_us=round(values["history_window"] * SECOND_US),
            transaction_retention_us=round(values["transaction_retention"] * SECOND_US),
            snapshots_kept=values["snapshots_kept"],
            log_kept_size_max=values["log_kept"] * MIB,
            memtable_size_max=values["checkpoint_size"] * MIB,
            memtable_commits_max=values["checkpoint_commits"],
            checkpoint_age_us_max=round(values["checkpoint_age"] * SECOND_US),
            transactions_max=values["transactions_max"],
            transaction_idle_us_max=round(values["transaction_idle"] * SECOND_US),
            transaction_age_us_max=round(values["transaction_age"] * SECOND_US),
        ),
    )
