"""`headwater conflicts` and `explain-conflict`, and who sees which conflicts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli.conflicts import conflicts, explain_conflict
from headwater.cli.server_process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def lose(db: headwater.BlockingDatabase) -> UUID:
    """Make a conflict about a key of several; return the id of the transaction that lost."""
    tx = db.transaction()
    with pytest.raises(headwater.Conflict), tx:
        tx.get(("stock", 1))
        tx.get(("price", 1))
        db.append("audit-1", headwater.Event("Noted"))
        db.put(("stock", 1), 4)
        tx.put(("sold", 1), 1)
    return db.conflicts(limit=1)[0].transaction


def test_a_conflict_is_listed_and_explained(server: ServerProcess) -> None:
    runner = CliRunner()
    with headwater.connect_blocking(server.url) as db:
        transaction = lose(db)
    listed = runner.invoke(conflicts, ["--url", server.url, "--json"])
    assert listed.exit_code == 0, listed.output
    (row,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (row["transaction"], row["kind"]) == (str(transaction), "read-write")
    assert row["subject"] == "key ('stock', 1)"
    told = runner.invoke(explain_conflict, [str(transaction), "--url", server.url])
    assert told.exit_code == 0, told.output
    assert re.search(r"began at +commit 0, 2 commits before it was refused", told.stdout)
    assert re.search(r"read +keys: \('stock', 1\)\n +keys: \('price', 1\)\n", told.stdout)
    assert re.search(r"wrote +keys: \('sold', 1\)\n", told.stdout)
    assert re.search(r"commit 2 of .* won\n +wrote +keys: \('stock', 1\)\n", told.stdout)
    as_json = runner.invoke(explain_conflict, [str(transaction), "--url", server.url, "--json"])
    assert json.loads(as_json.stdout)["winners"][0]["commit"] == 2


def test_an_unknown_conflict_is_an_error_that_says_what_is_remembered(
    server: ServerProcess,
) -> None:
    told = CliRunner().invoke(explain_conflict, [str(uuid4()), "--url", server.url])
    assert told.exit_code == 1
    assert "the last 256" in told.stderr


def test_who_is_no_administrator_sees_the_own_conflicts_alone(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url) as db:
        db.add_user("root", "secret")
    grants = [headwater.Grant.parse(text) for text in ("write:keys", "read:keys", "append:streams")]
    with headwater.connect_blocking(server.url, user="root", password="secret") as admin:
        for name in ("ann", "bob"):
            admin.add_user(name, "secret")
            admin.rights.grant(name, *grants)
        lost = {}
        for name in ("ann", "bob"):
            with headwater.connect_blocking(server.url, user=name, password="secret") as db:
                lost[name] = lose(db)
                (seen,) = db.conflicts()
                assert (seen.transaction, seen.user) == (lost[name], name)
                assert seen.winners[0].keys() == {"commit", "transaction", "time"}
                if name == "bob":
                    assert db.conflicts(lost["ann"]) == []
        every = admin.conflicts()
        assert [each.user for each in every] == ["bob", "ann"]
        assert every[0].winners[0]["keys"] == [("stock", 1)]
