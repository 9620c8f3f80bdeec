"""Open transactions: leases by id and by owner."""

import pytest

from headwater_protocol.errors import InvalidArgument, TransactionGone
from headwater_server.engine.transactions.open_transactions import OpenTransactions
from tests.engine.database import OWNER, Database


def test_views_are_distinct_and_in_order() -> None:
    database = Database()
    opened = OpenTransactions(count_max=9, size_max=9, idle_us_max=9, age_us_max=9)
    assert opened.views() == []
    for value in range(3):
        database.execute(["put", b"k", b"%d" % value])
    begun = [database.begin(at_commit=commit) for commit in (3, 1, 3, 2)]
    for transaction in begun:
        opened.add(transaction)
    assert opened.views() == [1, 2, 3]
    assert len(opened) == 4
    opened.remove(begun[1])
    assert opened.views() == [2, 3]
    opened.remove(begun[0])
    assert opened.views() == [2, 3]
    assert list(opened) == [begun[2], begun[3]]


def test_an_id_is_open_once() -> None:
    database = Database()
    opened = OpenTransactions(count_max=9, size_max=9, idle_us_max=9, age_us_max=9)
    transaction = database.begin()
    opened.add(transaction)
    with pytest.raises(InvalidArgument, match="already open"):
        opened.add(transaction)


def test_owned_renews_the_lease_of_a_transaction_and_find_does_not() -> None:
    database = Database()
    opened = OpenTransactions(count_max=9, size_max=9**9, idle_us_max=9, age_us_max=9**9)
    transaction = database.begin()
    opened.add(transaction)
    start = transaction.used
    opened.find(transaction.id)
    assert transaction.used == start
    opened.owned(transaction.id, OWNER, start + 9)
    assert opened.expire(start + 18) == []
    assert opened.expire(start + 19) == [transaction]
    with pytest.raises(TransactionGone):
        opened.owned(transaction.id, OWNER, start + 19)
    assert opened.count_of(OWNER) == 0
