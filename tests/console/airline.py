"""An application whose data the console's tests look at: accounts, claims, a group, projections.

It has what a console must show: events that cause others, a debit that stands out, a parked event
with later ones behind it, a parked stream, keys of every type, and users with few rights.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import headwater

SPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
ACCOUNTS = 4
DEBITS = 12


@dataclass(frozen=True)
class Account:
    debits: int = 0
    debited: int = 0
    corrected: int = 0


def evolve(account: Account, event: Any) -> Account:
    amount = event.data["amount"]
    if event.type == "Debited":
        return Account(account.debits + 1, account.debited + amount, account.corrected)
    return Account(account.debits, account.debited, account.corrected + amount)


accounts = headwater.Repository(Account, evolve, name="account", snapshot_every=None)

mended: set[str] = set()
"""Streams whose events the handler of `totals` no longer fails on."""


def define(db: headwater.Database) -> None:
    """The projections, for `--app`."""

    @db.projection("totals", category="account", attempts=1)
    async def totals(tx: Any, event: Any) -> None:
        if event.data["amount"] > 100_000 and not mended:
            raise ValueError(f"an amount of {event.data['amount']} cannot be right")
        tx.model.add((event.stream,), event.data["amount"])
        if event.type == "Debited":
            tx.model.add(("all",), event.data["amount"])


def define_blocking(db: headwater.BlockingDatabase) -> None:
    """The same for a blocking database."""

    @db.projection("totals", category="account", attempts=1)
    def totals(tx: Any, event: Any) -> None:
        if event.data["amount"] > 100_000 and not mended:
            raise ValueError(f"an amount of {event.data['amount']} cannot be right")
        tx.model.add((event.stream,), event.data["amount"])
        if event.type == "Debited":
            tx.model.add(("all",), event.data["amount"])


def fill(db: Any) -> None:
    """Write everything, in some hundred commits."""
    db.groups.create("mailer", category="account", attempts=1)
    db.groups.create("audit", after=0)
    for nth in range(DEBITS):
        for number in range(ACCOUNTS):
            debit(db, f"account-{number}", nth)
    odd_keys(db)
    park(db)
    define_blocking(db)
    with db.run_projections():
        db.wait_for("totals", db.read_all(reverse=True, limit=1).__next__().position)


def debit(db: Any, stream: str, nth: int) -> None:
    """A claim and the debit that it causes, one transaction each."""
    claim_id, flow = uuid5(SPACE, f"{stream}/{nth}"), str(uuid5(SPACE, f"flow/{stream}/{nth}"))
    amount = 240_000 if (stream, nth) == ("account-1", 7) else 1_000 + 10 * nth
    claim = f"claim-{stream[8:]}{nth:03}"

    def opened(tx: Any) -> None:
        data = {"flight": f"EV{nth}", "amount": amount, "currency": "USD"}
        opened = headwater.Event(
            "ClaimOpened", data, {"actor": "desk"}, id=claim_id, correlation=flow
        )
        tx.append(claim, opened)
        tx.put(("claims", claim), {"state": "open", "amount": amount})

    def debited(tx: Any) -> None:
        data = {"amount": amount, "currency": "USD", "claim": claim}
        debited = headwater.Event(
            "Debited",
            data,
            {"actor": "billing"},
            tags=[f"claim:{claim}"],
            causation=claim_id,
            correlation=flow,
        )
        tx.append(stream, debited)
        tx.put(("balance", stream[8:]), tx.get(("balance", stream[8:]), 1_000_000) - amount)
        tx.put(("claims", claim), {"state": "approved", "amount": amount})

    db.run(opened)
    db.run(debited)
    if nth == 9:
        state, version = accounts.on(db).load(stream)
        plain = accounts.dump_state(state)
        db.save_snapshot(stream, version=version, state=plain, schema=1, name="account")


def odd_keys(db: Any) -> None:
    """Keys and names that an address or a page could get wrong."""
    db.put(("odd", b"\x00\xff/%2F?&"), b"\x00\x01")
    db.put(("odd", '"><script>alert(1)</script>'), "<img src=x onerror=alert(2)>")
    db.put(
        ("odd", UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC)), {"nested": {"a": [1, 2.5, None]}}
    )
    db.put(("odd", "a/../b", -5, 1.5, True, None, ("x", 1)), 1)
    db.put(("odd", "\u202egnp.exe"), "right to left")
    markup = {"<b>field</b>": "<script>alert(3)</script>", "amount": 1}
    db.append("..", headwater.Event("Odd/Type", markup))
    db.append('a"b<c>/d%2F#?', headwater.Event("<i>Odd</i>", markup, {"actor": "<u>me</u>"}))


def park(db: Any) -> None:
    """Park the first event of account-2 in `mailer`, so that later ones wait."""
    with db.join("mailer", until_caught_up=True) as group:
        for delivery in group:
            if delivery.event.stream == "account-2" and delivery.event.version == 3:
                delivery.park("SMTP 550: mailbox full <postmaster@example.org>")
            else:
                delivery.ack()
