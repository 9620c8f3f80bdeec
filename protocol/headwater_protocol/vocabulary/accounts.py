"""The operations on users, their rights, and roles. operations.py has all others."""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import (
    Argument,
    Binary,
    Boolean,
    Field,
    Integer,
    Nullable,
    Record,
    Text,
)
from headwater_protocol.grants import GRANTS, ROLES
from headwater_protocol.identified import IDENTITY

NAME: Final = Text(1, limits.NAME_SIZE_MAX)


def _record(*arguments: Argument) -> Record:
    return Record(arguments)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any = None, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


REQUEST_MS: Final = Integer(1, 86_400_000)
"""Milliseconds that a request of a user may take: up to a day."""

ACCOUNT_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "user_set",
        _record(
            _required("name", NAME),
            _required("salt", Binary(12, 64)),
            _required("iterations", Integer(4096, 10_000_000)),
            _required("stored_key", Binary(32, 32)),
            _required("server_key", Binary(32, 32)),
            _optional("create", Boolean(), True, "true: it must not exist; false: it must"),
            IDENTITY,
        ),
        "nil",
        "Add a user or change a password, which is given as a SCRAM-SHA-256 verifier.",
    ),
    ("user_remove", _record(_required("name", NAME), IDENTITY), "nil", "Remove a user."),
    ("user_list", _record(), "[name, …]", "The users in name order."),
    (
        "user_verifiers",
        _record(),
        "[[name, salt, iterations, stored_key, server_key], …]",
        "The users in name order with their SCRAM-SHA-256 verifiers, for a dump.",
    ),
    (
        "user_grant",
        _record(
            _required("name", NAME),
            _optional("grants", GRANTS, []),
            _optional("roles", ROLES, [], "names of roles"),
            IDENTITY,
        ),
        "nil",
        "Give rights and roles to a user. From then on, the user has only what was given.",
    ),
    (
        "user_revoke",
        _record(
            _required("name", NAME),
            _optional("grants", GRANTS, []),
            _optional("roles", ROLES, [], "names of roles"),
            IDENTITY,
        ),
        "nil",
        "Take grants and roles from a user.",
    ),
    (
        "user_rights",
        _record(_optional("name", Nullable(NAME), None, "nil: the user of this connection")),
        "[name | nil, restricted, [role, …], [grant, …], request_ms | nil]",
        "The roles and grants of a user. A user that is not restricted may do everything.",
    ),
    (
        "user_limit",
        _record(
            _required("name", NAME),
            _required("request_ms", Nullable(REQUEST_MS), "nil: the server's setting"),
            IDENTITY,
        ),
        "nil",
        "Set how long a request of a user may take.",
    ),
    (
        "role_set",
        _record(_required("name", NAME), _required("grants", GRANTS), IDENTITY),
        "nil",
        "Define a role, or replace its grants. Users who have the role have them at once.",
    ),
    ("role_remove", _record(_required("name", NAME), IDENTITY), "nil", "Remove a role."),
    (
        "role_list",
        _record(),
        "[[name, [grant, …]], …]",
        "The roles in name order, with those that every database has.",
    ),
    (
        "audit_read",
        _record(_optional("limit", Integer(1, limits.PAGE_ITEMS_MAX), limits.PAGE_ITEMS_MAX)),
        "[[time, event, user | nil, address, details], …]",
        "The newest records of the audit log, in order of time.",
    ),
)
"""Name, arguments, answer and description of each operation."""
