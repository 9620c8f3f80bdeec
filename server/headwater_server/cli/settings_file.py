"""The settings of `serve` as a list, and the file of settings that is made from it.

The options of the command are the one place where settings are declared. The file that `headwater
init` writes, the page docs/settings.md and `headwater config check` are made from them.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import click

from headwater_server.cli.serve import serve

SUBJECTS: Final[dict[str, tuple[str, ...]]] = {
    "Files": ("data", "backup-dir", "archive", "archive-interval", "log-kept", "scrub-interval"),
    "Addresses and TLS": (
        *("listen", "unix", "tls-cert", "tls-key", "tls-client-ca", "tls-client-crl"),
        *("tls-client-login", "http", "ready-file"),
    ),
    "Followers and clusters": (
        *("follow", "advertise", "sync-followers", "log", "log-replicas", "log-monitor"),
        *("peer-user", "peer-password"),
    ),
    "Logs": ("log-format", "log-level", "slow-request", "spans", "audit-log"),
    "Bounds": (
        *("connections-max", "memory-max", "transactions-max", "transaction-idle"),
        *("transaction-age", "request-time", "shutdown-grace"),
    ),
    "History and checkpoints": (
        *("history-window", "transaction-retention", "snapshots-kept", "checkpoint-size"),
        *("checkpoint-commits", "checkpoint-age"),
    ),
}
"""The settings by subject. Those that are not listed come last, as "Others"."""

_WIDTH: Final = 96


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in its three spellings.

    Attributes:
        name: in the file. The option is `--name`.
        variable: the environment variable.
        what: what it does, from the help of the option.
        unit: the placeholder of its value: a unit, or what kind of thing it is.
        default: as TOML; None if it is not set by default.
        told: what the help says instead of a default that is computed.
    """

    name: str
    variable: str
    what: str
    unit: str
    default: str | None
    told: str | None


def all_settings() -> dict[str, list[Setting]]:
    """The settings by subject, each once."""
    left = {setting.name: setting for setting in _declared()}
    found = {
        subject: [left.pop(name) for name in names if name in left]
        for subject, names in SUBJECTS.items()
    }
    if left:
        found["Others"] = list(left.values())
    return found


def _declared() -> Iterator[Setting]:
    for option in serve.params:
        if not isinstance(option, click.Option) or option.name == "config":
            continue
        default = option.default if option.to_info_dict()["default"] is not None else None
        told = option.show_default
        kind = option.type
        yield Setting(
            name=option.opts[0].removeprefix("--"),
            variable=str(option.envvar),
            what=option.help or "",
            unit=" | ".join(kind.choices)
            if isinstance(kind, click.Choice)
            else option.metavar or "",
            default=None if default is None else as_toml(default),
            told=told if isinstance(told, str) else None,
        )


def as_toml(value: Any) -> str:
    """A value of a setting as TOML."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def template(data: str) -> str:
    """A file with all settings and what they do. Only the data directory is set."""
    lines = [
        "# Settings of `headwater serve --config FILE`. Lines that begin with `#` are defaults.",
        "# An option on the command line, or a variable HEADWATER_…, overrides the file.",
        "# `headwater config check FILE` tells whether the server could start with it.",
    ]
    for subject, settings in all_settings().items():
        lines += ["", "", f"# {subject}"]
        for setting in settings:
            lines += ["", *_comment(setting)]
            if setting.name == "data":
                lines.append(f"data = {as_toml(data)}")
            else:
                example = as_toml(setting.unit) if setting.default is None else setting.default
                lines.append(f"# {setting.name} = {example}")
    return "\n".join(lines) + "\n"


def _comment(setting: Setting) -> list[str]:
    words = [setting.what]
    if setting.default is not None:
        if setting.unit and setting.unit.isupper():
            words.append(f"In {setting.unit.lower()}.") if _is_number(setting) else None
        elif " | " in setting.unit:
            words.append(f"One of {setting.unit.replace(' | ', ', ')}.")
    elif setting.name != "data":
        words.append(f"Default: {setting.told or 'not set'}.")
    return textwrap.wrap(" ".join(words), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _is_number(setting: Setting) -> bool:
    return setting.unit not in ("NUMBER", "DIR", "FILE", "PATH", "URL", "HOST:PORT")
