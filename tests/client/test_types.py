"""What type checkers say of the client: right calls pass, and wrong ones do not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RIGHT = """
from collections.abc import Sequence
import headwater
from headwater import Event

async def work(tx: headwater.Transaction, amount: int, note: str = "") -> list[int]:
    tx.put("k", amount)
    return [amount]

def blocking_work(tx: headwater.BlockingTransaction, amount: int) -> str:
    return str(amount)

def withdraw(state: int, amount: int) -> list[Event]:
    return [Event("Withdrawn", amount)]

async def asynchronous(db: headwater.Database) -> None:
    numbers: list[int] = await db.run(work, 3)
    numbers = await db.run(work, 3, "note", isolation="snapshot", attempts=2)
    done = await db.append("account-ann", Event("Withdrawn", {"amount": 30}))
    await db.wait_for("balances", done)
    await db.wait_for("balances", done.last_position)
    await db.wait_for("balances", await db.execute(db.batch()))
    accounts = headwater.Repository(0, lambda state, event: state).on(db)
    await db.wait_for("balances", await accounts.decide("account-ann", withdraw, 10))
    await accounts.decide("account-ann", {"a": "command that is data"})
    position: int | None = db.read_all().position
    count: int = (await db.delete_range(("old",))).count

def blocking(db: headwater.BlockingDatabase) -> None:
    text: str = db.run(blocking_work, 3)
    db.wait_for("balances", db.append("account-ann", Event("Withdrawn")))
    accounts = headwater.Repository(0, lambda state, event: state).on(db)
    accounts.decide("account-ann", withdraw, 10)
"""

WRONG = (
    'await db.run(work, "three")',
    "await db.run(work, 3, 4, 5)",
    "await db.run(work)",
    'await db.run(work, 3, isolation="serialisable")',
    'db.transaction(isolation="chaos")',
    'await accounts.decide("a", withdraw, "ten")',
    'await accounts.decide("a", withdraw, 10, 11)',
    'await db.wait_for("balances", "the end")',
    'blocking.run(blocking_work, "three")',
    "blocking.run(work, 3)",
)

HEAD = (
    RIGHT
    + """
async def wrong(
    db: headwater.Database,
    blocking: headwater.BlockingDatabase,
    accounts: headwater.Aggregates[int],
) -> None:
"""
)


def test_type_checkers_accept_right_calls_and_refuse_each_wrong_one(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "calls.py"
    file.write_text(HEAD + "".join(f"    {call}\n" for call in WRONG))
    first = len(HEAD.splitlines()) + 1
    paths = [ROOT / "client", ROOT / "protocol"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-incremental"),
            *("--config-file", "", "--cache-dir", str(tmp_path / "cache"), str(file)),
        ],
        env={"MYPYPATH": ":".join(map(str, paths)), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = {
        int(line.split(":")[1]) for line in done.stdout.splitlines() if line.startswith(str(file))
    }
    assert lines == set(range(first, first + len(WRONG))), done.stdout
