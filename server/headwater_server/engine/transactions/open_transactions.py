"""Open transactions and their read views, which are leases.

A read view keeps old versions alive. So it has an owner, a maximum age and a maximum idle time, and
it ends with the connection that opened it. `stats` reports what is pinned and by whom.
"""

from collections.abc import Iterator

from headwater_protocol.errors import InvalidArgument, TooMany, TransactionGone
from headwater_server.engine.transactions.transaction import Transaction


class OpenTransactions:
    """The transactions that are neither committed nor rolled back.

    Attributes:
        by_id: all of them.
        expired: how many were ended because they were idle or open for too long.
        lost: how many were ended with their connection.
        size: bytes that they hold; size_max: that they may hold.
    """

    def __init__(self, *, count_max: int, size_max: int, idle_us_max: int, age_us_max: int) -> None:
        self._count_max = count_max
        self.size_max = size_max
        self.size = 0
        self._idle_us_max = idle_us_max
        self._age_us_max = age_us_max
        self.by_id: dict[bytes, Transaction] = {}
        self.expired = 0
        self.lost = 0
        self._by_owner: dict[object, dict[bytes, Transaction]] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self.by_id.values())

    def check_room(self) -> None:
        """Raise TooMany if no more transactions may be opened."""
        if len(self.by_id) >= self._count_max:
            raise TooMany(f"{len(self.by_id)} open transactions; allowed are {self._count_max}")

    def add(self, transaction: Transaction) -> None:
        """Add a transaction, whose lease begins."""
        if transaction.id in self.by_id:
            raise InvalidArgument(f"transaction {transaction.id.hex()} is already open")
        self.by_id[transaction.id] = transaction
        self._by_owner.setdefault(transaction.owner, {})[transaction.id] = transaction

    def find(self, transaction: bytes) -> Transaction | None:
        """The open transaction of this id, whoever owns it."""
        return self.by_id.get(transaction)

    def owned(self, transaction: bytes, owner: object, now: int) -> Transaction:
        """The owner's open transaction; this renews its lease.

        Raises:
            TransactionGone: it is not open, or belongs to another connection.
            TooMany: all open transactions together hold too many bytes; this one is rolled back.
        """
        found = self.by_id.get(transaction)
        if found is None or found.owner is not owner:
            raise TransactionGone(
                f"transaction {transaction.hex()} is not open on this connection: it was never "
                "begun here, has ended, or was idle for too long"
            )
        found.used = now
        # Charge what its last read added only now: a single read has a bound of its own.
        self.charge(found)
        return found

    def charge(self, transaction: Transaction) -> None:
        """Account for the bytes that a transaction now holds.

        Raises:
            TooMany: all open transactions together hold too many bytes; this one is rolled back.
        """
        held = transaction.held_size
        if held == transaction.charged_size:
            return
        self.size += held - transaction.charged_size
        transaction.charged_size = held
        if self.size > self.size_max:
            size = self.size
            self.remove(transaction)
            raise TooMany(
                f"{size} bytes are held by open transactions; allowed are {self.size_max}"
            )

    def remove(self, transaction: Transaction) -> None:
        """End a lease."""
        del self.by_id[transaction.id]
        self.size -= transaction.charged_size
        owned = self._by_owner[transaction.owner]
        del owned[transaction.id]
        if not owned:
            del self._by_owner[transaction.owner]

    def close_owner(self, owner: object) -> int:
        """End every lease of a closed connection; return how many there were."""
        owned = list(self._by_owner.get(owner, {}).values())
        for transaction in owned:
            self.remove(transaction)
        self.lost += len(owned)
        return len(owned)

    def count_of(self, owner: object) -> int:
        """How many transactions the owner has open."""
        return len(self._by_owner.get(owner, ()))

    def size_of(self, owner: object) -> int:
        """Bytes that the owner's open transactions were charged for."""
        return sum(each.charged_size for each in self._by_owner.get(owner, {}).values())

    def expire(self, now: int) -> list[Transaction]:
        """End the leases that were idle or open for too long; return their transactions.

        If the clock was set back, leases restart now, so that they do not last that much longer.
        """
        for transaction in self.by_id.values():
            if transaction.used > now:
                transaction.used = now
            if transaction.begun > now:
                transaction.begun = now
        ended = [
            transaction
            for transaction in self.by_id.values()
            if now - transaction.used > self._idle_us_max
            or now - transaction.begun > self._age_us_max
        ]
        for transaction in ended:
            self.remove(transaction)
        self.expired += len(ended)
        return ended

    def views(self) -> list[int]:
        """The distinct commits at which open transactions read, in order."""
        return sorted({transaction.view for transaction in self.by_id.values()})

    def reads_at(self, commit: int) -> bool:
        """Whether an open transaction reads at a commit. It is kept, so others may read it too."""
        return any(transaction.view == commit for transaction in self.by_id.values())

    def times(self) -> list[int]:
        """The times at which open transactions evaluate the age of events, in microseconds."""
        return [transaction.time for transaction in self.by_id.values()]
