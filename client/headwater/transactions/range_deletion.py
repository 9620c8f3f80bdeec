"""Deleting a range of keys in parts, however many keys it has.

    scan a page --> delete its keys, in the same transaction --> behind the last key, again

A transaction is bounded, and a range is not. So each page of keys is a transaction of its own, at
snapshot isolation: it conflicts only with those who write the same keys.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from headwater.transactions.transaction import Transaction
from headwater_protocol.keys import key_after
from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.numbers import CommitNumber

Part = tuple[int, bytes | None, Transaction]
"""How many keys a part deleted, where the next part begins (None: no more), its transaction."""

Run = Callable[[bytes, bytes | None], Awaitable[Part]]
"""Deletes a part of a range in a transaction of its own, exactly once."""


@dataclass(frozen=True, slots=True)
class DeletedRange:
    """What `db.delete_range` has deleted.

    Attributes:
        count: the number of keys.
        commit: of the last of them. None if the range was empty.
    """

    count: int
    commit: CommitNumber | None


async def delete_part(tx: Transaction, first: bytes, last: bytes | None) -> Part:
    """Delete the first keys of a range, as many as a page has."""
    # Encoded, since neither keys nor values have to be decodable to be deleted.
    _, items, more = await tx._fetch("scan", first, last, PAGE_ITEMS_MAX, False)  # noqa: SLF001
    keys = items[::2]
    for key in keys:
        tx._keep(["delete", key], len(key))  # noqa: SLF001
    return len(keys), key_after(keys[-1]) if more and keys else None, tx


async def delete_parts(run: Run, first: bytes, last: bytes | None) -> DeletedRange:
    """Delete all keys of a range, part by part."""
    total = 0
    commit = None
    begin: bytes | None = first
    while begin is not None:
        count, begin, transaction = await run(begin, last)
        if count:
            total += count
            commit = transaction.committed.commit
    return DeletedRange(total, commit)
