"""Users and roles in a dump: verifiers of passwords, and rights."""

import base64
from collections.abc import Iterator
from typing import Any, Final

import click

from headwater.blocking.database import BlockingDatabase
from headwater.errors import AuthenticationFailed
from headwater.transport.stepping import step
from headwater_protocol.grants import BUILT_IN_ROLES, Grant

_VERIFIER: Final = ("salt", "stored_key", "server_key")

_PASSING: Final = "reader"
"""A role for a moment. A user that may do nothing is one that was given something and lost it."""


def account_lines(db: BlockingDatabase) -> Iterator[dict[str, Any]]:
    """A line for each role that is not in every database, and for each user."""
    for name, grants in db.rights.roles().items():
        if name not in BUILT_IN_ROLES:
            yield {"role": name, "grants": list(map(str, grants))}
    verifiers = step(db._core._channel.read("user_verifiers"))  # noqa: SLF001
    for name, salt, iterations, stored_key, server_key in verifiers:
        secrets = zip(_VERIFIER, (salt, stored_key, server_key), strict=True)
        coded = {word: base64.b64encode(secret).decode() for word, secret in secrets}
        line: dict[str, Any] = {"user": name, "iterations": iterations, **coded}
        rights = db.rights.of(name)
        if rights.restricted:
            line["rights"] = {
                "roles": list(rights.roles),
                "grants": list(map(str, rights.grants)),
            }
        if rights.request_time is not None:
            line["request_ms"] = round(rights.request_time * 1000)
        yield line


def restore_accounts(db: BlockingDatabase, lines: list[dict[str, Any]]) -> None:
    """Add the roles and users that do not exist yet.

    All in one exchange: as soon as there is a user, a connection without one is refused.

    Raises:
        click.ClickException: the connection was refused before all were added.
    """
    if not lines:
        # Then nobody needs the right to ask.
        return
    known = {*db.rights.roles(), *(("user", name) for name in db.users())}
    requests: list[tuple[Any, ...]] = [
        ("role_set", line["role"], _wire(line["grants"]))
        for line in lines
        if "role" in line and line["role"] not in known
    ]
    users = [line for line in lines if "user" in line and ("user", line["user"]) not in known]
    requests += [
        (
            "user_set",
            line["user"],
            base64.b64decode(line["salt"]),
            line["iterations"],
            base64.b64decode(line["stored_key"]),
            base64.b64decode(line["server_key"]),
            True,
        )
        for line in users
    ]
    requests += [
        ("user_limit", line["user"], line["request_ms"]) for line in users if "request_ms" in line
    ]
    # After all users were added: somebody must be left who may do everything.
    for line in users:
        if "rights" in line:
            roles, grants = line["rights"]["roles"], _wire(line["rights"]["grants"])
            requests.append(("user_grant", line["user"], grants, [*roles, _PASSING]))
            if _PASSING not in roles:
                requests.append(("user_revoke", line["user"], [], [_PASSING]))
    if not requests:
        return
    connection = step(db._core._channel.connection())  # noqa: SLF001
    try:
        step(connection.exchange(requests))
    except AuthenticationFailed as error:
        raise click.ClickException(
            "some of the users were added, and now the server wants one; run the load again with "
            "--user to add the others"
        ) from error


def _wire(grants: list[str]) -> list[Any]:
    return [Grant.parse(grant).as_wire() for grant in grants]
