"""The settings of a stream that holds a log, and which of them would lose commits.

A stream is made with the settings below. One that is there is checked, setting by setting: another
program may have made it, or somebody may have changed it.
"""

from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol.errors import InvalidArgument
from headwater_server.storage.wal.interface import ENTRY_WRITTEN_SIZE_MAX

DUPLICATE_WINDOW_NS: Final = 120 * 10**9
"""How long the stream remembers the ids of messages. A message that is sent again after that is
told apart by its place."""

REPLICAS_SAFE: Final = 3
"""Below that, the loss of one machine loses the log, or stops it."""

SERVER_VERSION_MIN: Final = (2, 12)
"""Older servers check the expected sequence unsoundly across elections."""

DATABASE_KEY: Final = "headwater-database"
"""The name of the database's id in the metadata of the stream."""

MESSAGE_SIZE_MIN: Final = ENTRY_WRITTEN_SIZE_MAX + 1024
"""Bytes of a message that the server must take: an entry and its headers."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A stream as it is to be made.

    Attributes:
        name: of the stream.
        replicas: how many servers keep it.
        database_id: of the database whose log it holds.
        first_index: the index of its first entry.
    """

    name: str
    replicas: int
    database_id: bytes
    first_index: int = 1

    @property
    def subject(self) -> str:
        """The subject of the entries."""
        return subject_of(self.name)

    def config(self) -> dict[str, Any]:
        """The stream in the form of JetStream."""
        return {
            "name": self.name,
            "subjects": [self.subject],
            "num_replicas": self.replicas,
            "first_seq": self.first_index,
            "duplicate_window": DUPLICATE_WINDOW_NS,
            "metadata": {DATABASE_KEY: self.database_id.hex()},
            **_REQUIRED,
        }


_REQUIRED: Final[dict[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "deny_delete": True,
    "allow_direct": True,
}

_FORBIDDEN: Final = (
    "no_ack",
    "sealed",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
    "mirror",
    "sources",
    "subject_transform",
    "republish",
    "deny_purge",
)
"""Settings that must be off: with them messages vanish, or the log cannot be written or trimmed."""


def subject_of(name: str) -> str:
    """The subject of the entries of a stream."""
    return f"headwater.{name}.log"


def nodes_subject_of(name: str) -> str:
    """The subject at which the nodes of a stream tell each other of themselves."""
    return f"headwater.{name}.nodes"


def check_config(config: dict[str, Any], name: str, *, replicas_min: int) -> bytes:
    """Check the settings of a stream that is there; return the database id of its log.

    Raises:
        InvalidArgument: names each setting that would lose commits.
    """
    wrong: list[str] = []
    for setting, wanted in _REQUIRED.items():
        found = config.get(setting, 0 if setting == "max_age" else None)
        if found != wanted:
            wrong.append(f"{setting} is {found!r} and must be {wanted!r}")
    wrong += [f"{setting} is set and must not be" for setting in _FORBIDDEN if config.get(setting)]
    if config.get("persist_mode", "default") not in ("", "default"):
        wrong.append(f"persist_mode is {config['persist_mode']!r}: messages would not be synced")
    if config.get("subjects") != [subject_of(name)]:
        wrong.append(f"subjects is {config.get('subjects')} and must be [{subject_of(name)!r}]")
    if config.get("duplicate_window", 0) < DUPLICATE_WINDOW_NS:
        wrong.append(f"duplicate_window is below {DUPLICATE_WINDOW_NS} ns")
    replicas = config.get("num_replicas", 1)
    if replicas < replicas_min:
        wrong.append(f"num_replicas is {replicas} and must be at least {replicas_min}")
    if wrong:
        raise InvalidArgument(f"the stream {name!r} is not safe for a log: {'; '.join(wrong)}")
    try:
        return bytes.fromhex(config.get("metadata", {})[DATABASE_KEY])
    except (KeyError, ValueError):
        raise InvalidArgument(
            f"the stream {name!r} is not one of Headwater: its metadata lacks {DATABASE_KEY!r}"
        ) from None


def check_server(version: tuple[int, int], message_size_max: int, server: str) -> None:
    """Check the server of a connection: its version, and how large a message it takes.

    Raises:
        InvalidArgument: it is too old, or refuses messages of the size of an entry.
    """
    if version < SERVER_VERSION_MIN:
        found, least = (".".join(map(str, numbers)) for numbers in (version, SERVER_VERSION_MIN))
        raise InvalidArgument(f"{server} is nats-server {found}; {least} or newer is required")
    if message_size_max < MESSAGE_SIZE_MIN:
        raise InvalidArgument(
            f"{server}: max_payload is {message_size_max}; the log needs {MESSAGE_SIZE_MIN}"
        )
