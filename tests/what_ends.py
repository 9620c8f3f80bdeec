"""Writes docs/what-ends.md from the code: `python -m tests.what_ends`.

Everything that ends by itself, or is refused above a bound, is on that page. The numbers and most
of the reasons come from where they are defined. A test compares the page with what this would
write, and fails if a setting or a limit is on neither the page nor the list of those left out.
"""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

from headwater.cli import backup as backup_command
from headwater.connecting import connect
from headwater.database import Database
from headwater.projections import failures, projections
from headwater.transactions import writes
from headwater.transport import turns
from headwater_protocol import errors, limits
from headwater_protocol.errors import HeadwaterError
from headwater_server.engine import settings as engine_settings
from headwater_server.engine import work_budget
from headwater_server.engine.consumer_groups import progress, records, schedule
from headwater_server.engine.settings import EngineSettings
from headwater_server.net import server, settings
from headwater_server.net.settings import ServerSettings, SessionSettings
from headwater_server.net.tasks import archiving

PAGE: Final = Path(__file__).parent.parent / "docs/what-ends.md"

_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Ends:
    """Something that ends by itself.

    Attributes:
        what: it is.
        after: how long it lasts, from the code.
        then: what happens.
        raises: the errors that tell of it.
        setting: how to change it; "" if it is fixed.
    """

    what: str
    after: str
    then: str
    raises: tuple[type[HeadwaterError], ...] = ()
    setting: str = ""


def seconds(value: float) -> str:
    """A number of seconds in words."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if value >= size and value % size == 0:
            count = round(value / size)
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return f"{value:g} s"


def default_of(function: Any, parameter: str) -> Any:
    """The default of a parameter."""
    return inspect.signature(function).parameters[parameter].default


_ENGINE: Final = EngineSettings()
_SERVER: Final = ServerSettings(data="")
_SESSION: Final = SessionSettings()
_GROUP: Final = records.GroupSettings()

SETTINGS_SHOWN: set[str] = set()
"""The settings that the tables of times use, as Class.name."""


def _us(name: str) -> str:
    SETTINGS_SHOWN.add(f"EngineSettings.{name}")
    return seconds(getattr(_ENGINE, name) / _SECOND_US)


def _ms(owner: ServerSettings | SessionSettings, name: str) -> str:
    SETTINGS_SHOWN.add(f"{type(owner).__name__}.{name}")
    return seconds(getattr(owner, name) / 1000)


TIMES: Final[dict[str, list[Ends]]] = {
    "Transactions and the past": [
        Ends(
            "A transaction that waits for its client's next request, also a read-only one",
            _us("transaction_idle_us_max"),
            "It is rolled back.",
            (errors.TransactionGone,),
            "`--transaction-idle`",
        ),
        Ends(
            "An open transaction, also a read-only one",
            _us("transaction_age_us_max"),
            "It is rolled back.",
            (errors.TransactionGone,),
            "`--transaction-age`, at most `--transaction-retention`",
        ),
        Ends(
            "Reads of a past commit, pages of a listing or scan, and feeds of keys that lag, "
            "unless an open transaction reads at that commit",
            _us("history_window_us"),
            "The commit cannot be read any more.",
            (errors.HistoryGone,),
            "`--history-window`",
        ),
        Ends(
            "Knowing the outcome of a transaction, and who committed what (`db.commits`)",
            _us("transaction_retention_us"),
            "The outcome is forgotten, and the commit log begins later.",
            (errors.TransactionForgotten, errors.HistoryGone),
            "`--transaction-retention`",
        ),
        Ends(
            "Events of a stream with a limit of age or number",
            "as set",
            "They are hidden, and later removed from disk.",
            (),
            "`db.set_retention`",
        ),
    ],
    "Clients": [
        Ends(
            "Connecting and authenticating",
            seconds(default_of(connect, "connect_timeout")),
            "Nothing was sent.",
            (errors.ConnectionLost,),
            "`connect(connect_timeout=)`",
        ),
        Ends(
            "A request without an answer",
            seconds(default_of(connect, "request_timeout")),
            "The connection is given up. What was sent may have happened.",
            (errors.ConnectionLost, errors.CommitUnknown),
            "`connect(request_timeout=)`",
        ),
        Ends(
            "Waiting for a server and trying again: connecting, reads, single writes, `db.run`, "
            "`decide`, subscriptions and consumers. Projections go on for ever",
            seconds(default_of(connect, "retry_timeout")),
            "The call, or the iteration of the subscription or consumer, raises the error.",
            (errors.ConnectionLost, errors.CommitUnknown, errors.Conflict),
            "`connect(retry_timeout=)`, `db.run(deadline=, attempts=)`",
        ),
        Ends(
            "Waiting in line after a conflict, while the first of the line does not move",
            seconds(turns.TURN_S_MAX),
            "The first of the line is passed by, and the next one tries.",
            (),
            "fixed",
        ),
        Ends(
            "`db.wait_for` a projection",
            seconds(default_of(Database.wait_for, "timeout")),
            "ProjectionBehind is raised; the projection goes on.",
            (),
            "`wait_for(timeout=)`",
        ),
        Ends(
            "`headwater backup` waiting for the server",
            seconds(backup_command.ANSWER_S_MAX),
            "The server finishes the backup.",
            (errors.ConnectionLost,),
        ),
    ],
    "Connections": [
        Ends(
            "Saying hello and authenticating",
            _ms(_SESSION, "hello_ms_max"),
            "The connection is closed.",
            (errors.AuthenticationFailed,),
        ),
        Ends(
            "Wrong passwords on a connection",
            f"{_SESSION.authentications_failed_max} tries",
            "The connection is closed.",
            (errors.AuthenticationFailed,),
        ),
        Ends(
            "A request that stays incomplete, or an answer that stays unread, while the memory of "
            "all connections is used up",
            _ms(_SERVER, "stalled_ms_max"),
            "The connection is closed.",
            (errors.ConnectionLost,),
            "`--memory-max`",
        ),
        Ends(
            "More than 4 KiB of an incomplete request or of unread answers without any progress",
            _ms(_SERVER, "unmoved_ms_max"),
            "The connection is closed.",
            (errors.ConnectionLost,),
        ),
        Ends(
            "A request that is evaluated in steps: an `execute` or a commit with much work",
            _ms(_SESSION, "request_ms_max"),
            "It is refused and has no effect.",
            (errors.TooLarge,),
            "`--request-time`, `headwater user limit`",
        ),
        Ends(
            "Open transactions after SIGTERM",
            _ms(_SERVER, "shutdown_ms_max"),
            "They are rolled back, and connections get "
            f"{seconds(server.SHUTDOWN_NOTICE_S_MAX)} to read the notice.",
            (errors.ShuttingDown,),
            "`--shutdown-grace`",
        ),
    ],
    "The archive": [
        Ends(
            "The time in which a commit is only on the server's disk",
            _ms(_SERVER, "archive_interval_ms"),
            "It is archived.",
            (),
            "`--archive-interval`",
        ),
        Ends(
            "A start that waits for an archive which does not answer",
            seconds(archiving.BEGIN_S_MAX),
            "The server starts, raises an alarm, and tries again at each interval.",
        ),
        Ends(
            "A stop that waits for the last copy to the archive",
            seconds(archiving.END_S_MAX),
            "The server stops, and the next start goes on.",
        ),
    ],
    "Consumer groups and projections": [
        Ends(
            "A delivery that is not settled",
            seconds(_GROUP.lease_ms / 1000),
            "Another consumer gets the event.",
            (errors.DeliveryLost,),
            "`groups.create(lease=)`",
        ),
        Ends(
            "The pause before the next attempt at an event",
            f"{seconds(_GROUP.retry_ms / 1000)}, doubled each time, at most "
            f"{seconds(schedule.RETRY_US_MAX / _SECOND_US)}, or the given delay if that is longer",
            "The event is delivered again.",
            (),
            "`groups.create(retry_delay=)`",
        ),
        Ends(
            "Attempts at an event in a group",
            f"{_GROUP.attempts_max}",
            "The event is parked.",
            (),
            "`groups.create(attempts=)`; 0: never",
        ),
        Ends(
            "Parked events of a group",
            f"{progress.PARKED_MAX:,}",
            "Further events are not parked: they are tried again with the longest pause.",
        ),
        Ends(
            "Attempts at an event in a projection",
            f"{projections.ATTEMPTS_DEFAULT}",
            "The stream of the event is parked.",
            (),
            "`projection(attempts=)`",
        ),
        Ends(
            "The reason of a parked stream of a projection",
            f"{failures.REASON_SIZE_MAX:,} characters",
            "The rest is cut off.",
        ),
    ],
}

WORK: Final = [
    Ends(
        "One request or one-shot write (`append`, `put`, `execute`); a transaction sends several",
        f"{writes.REQUEST_SIZE_MAX // limits.MIB} MiB",
        "It is refused by the client.",
        (errors.TooLarge,),
    ),
    Ends(
        "Work that one request may take: events, and index entries at a quarter, that are looked "
        "at to check a commit, its conditions and reads",
        f"{work_budget.WORK_MAX:,}",
        "The request is refused, and nothing is written.",
        (errors.TooLarge,),
    ),
    Ends(
        "`Committed.versions`, if they do not fit into one frame",
        f"{limits.BODY_SIZE_MAX // limits.MIB} MiB",
        "They are left out; the commit stands.",
    ),
]

LEFT_OUT: Final = {
    # Where and how, not how much.
    *(f"ServerSettings.{name}" for name in (
        "data", "listen", "unix", "tls_certificate", "tls_key", "backup_directory",
        "archive_directory", "ready_file", "log_format", "log_level", "session", "engine",
        "http", "slow_request_ms", "scrub_interval_ms",
    )),
    # The pace of the server's own work. A client sees slower answers, and nothing ends.
    *(f"ServerSettings.{name}" for name in (
        "descriptors_kept", "turn_ms", "feeds_turn_ms", "accepts_per_turn_max", "listen_backlog",
        "maintenance_ms", "disk_retry_ms", "rewrite_rest_ms",
    )),
    *(f"SessionSettings.{name}" for name in (
        "output_pause_size", "output_resume_size", "requests_waiting_max", "requests_per_turn_max",
        "turn_ms", "receive_size", "authentications_failed_max",
    )),
    *(f"EngineSettings.{name}" for name in (
        "clock_jump_us_max", "memtable_size_max", "memtable_commits_max", "examined_events_max",
        "step_events_max", "garbage_entries_max", "event_segment_size", "rewrite_dead_share",
    )),
    # Of messages, not of data: a client of this library never meets them.
    *(f"limits.{name}" for name in (
        "PORT_DEFAULT", "PROTOCOL_VERSION", "HELLO_BODY_SIZE_MAX", "DEPTH_MAX", "MEMBERS_MAX",
        "REQUEST_ITEMS_MAX", "RESPONSE_ITEMS_MAX", "STR_SIZE_MAX", "ERROR_MESSAGE_MAX",
        "UNSCANNED_MEMBERS_MAX", "REQUEST_UNSCANNED_SIZE_MAX", "RESPONSE_UNSCANNED_SIZE_MAX",
        "REQUEST_ID_MAX", "NUMBER_MAX", "KIB", "MIB",
    )),
}  # fmt: skip
"""Settings and limits that are not on the page."""

_OPTIONS: Final = {
    "ServerSettings.connections_max": "`--connections-max`",
    "ServerSettings.memory_size_max": "`--memory-max`",
    "EngineSettings.transactions_max": "`--transactions-max`",
    "EngineSettings.snapshots_kept": "`--snapshots-kept`",
    "EngineSettings.checkpoint_age_us_max": "`--checkpoint-age`",
    "EngineSettings.log_kept_size_max": "`--log-kept`",
}


def docstrings(module: ModuleType) -> dict[str, str]:
    """The docstrings of the constants and fields of a module, by name or Class.name."""
    found: dict[str, str] = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for first, second in itertools.pairwise(body):
            if (
                isinstance(first, ast.AnnAssign)
                and isinstance(first.target, ast.Name)
                and isinstance(second, ast.Expr)
                and isinstance(second.value, ast.Constant)
            ):
                found[prefix + first.target.id] = " ".join(str(second.value.value).split())

    tree = ast.parse(inspect.getsource(module))
    collect(tree.body, "")
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            collect(node.body, f"{node.name}.")
    return found


def bounds() -> list[tuple[str, Any]]:
    """The settings that are bounds, as Class.name with their defaults."""
    return [
        (f"{type(owner).__name__}.{name}", getattr(owner, name))
        for owner in (_SERVER, _SESSION, _ENGINE)
        for name, field in type(owner).__dataclass_fields__.items()
        if f"{type(owner).__name__}.{name}" not in LEFT_OUT | SETTINGS_SHOWN
        # A text, as a path, is no bound, and neither is one of a few words.
        and not any(
            isinstance(each, type) and issubclass(each, str)
            for each in (field.type, *get_args(field.type))
        )
    ]


def shown_limits() -> list[tuple[str, int]]:
    """The limits of the protocol that are on the page."""
    return [
        (name, value)
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int) and f"limits.{name}" not in LEFT_OUT
    ]


def _number(name: str, value: int | None) -> str:
    if value is None:
        return "depends"
    for unit, a_second in (("ms", 1000), ("us", _SECOND_US)):
        if re.search(rf"_{unit}(_|$)", name.lower()):
            return seconds(value / a_second)
    if re.search(r"size|SIZE", name) and value >= limits.KIB and value % limits.KIB == 0:
        big = value % limits.MIB == 0
        return f"{value // limits.MIB} MiB" if big else f"{value // limits.KIB} KiB"
    return f"{value:,}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _ends_table(first: str, rows: list[Ends]) -> str:
    return _table(
        (first, "after", "then", "error", "set by"),
        [
            (
                row.what,
                row.after,
                row.then,
                ", ".join(f"`{error.__name__}`" for error in row.raises),
                row.setting or "fixed",
            )
            for row in rows
        ],
    )


def page() -> str:
    """The text of the page."""
    parts = [
        textwrap.dedent("""\
            # What ends by itself

            Everything that ends without being told to, and every bound on data, with its default.
            Most can be changed: options are those of `headwater serve`. The page is generated from
            the code (`python -m tests.what_ends`), and a test compares the two.
            """)
    ]
    for title, rows in TIMES.items():
        parts.append(f"\n## {title}\n\n{_ends_table('what', rows)}")
    parts.append(
        f"\n## Work and answers\n\n{_ends_table('what', WORK).replace('after', 'bound', 1)}"
    )
    reasons = docstrings(settings) | docstrings(engine_settings)
    rows_ = [
        (reasons[name], _number(name, value), _OPTIONS.get(name, "fixed"))
        for name, value in bounds()
    ]
    parts.append(
        "\n## Bounds of the server\n\n"
        "Above a bound on connections, transactions, subscriptions or memberships, the error is\n"
        "`TooMany`; above one of what a transaction reads, `TooLarge`; without room on disk,\n"
        "`ReadOnly`.\n\n" + _table(("what", "bound", "set by"), rows_)
    )
    reasons = docstrings(limits)
    parts.append(
        "\n## Limits of data\n\n"
        "The client refuses a value beyond a limit at the call, with `TooLarge` or\n"
        "`InvalidArgument`, and so does the server. They are fixed.\n\n"
        + _table(
            ("limit", "number", "of what, and why"),
            [(f"`{name}`", _number(name, value), reasons[name]) for name, value in shown_limits()],
        )
    )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
