"""Encryption without an event loop."""

from collections.abc import Iterable, Mapping
from typing import Any

from headwater.blocking.database import BlockingDatabase
from headwater.blocking.past import BlockingPast
from headwater.blocking.transaction import BlockingTransaction
from headwater.encryption.encryption import Encryption, Sealing
from headwater.records import RecordedEvent
from headwater.transport.stepping import step
from headwater_protocol.keys import Key

BlockingPlace = BlockingDatabase | BlockingTransaction | BlockingPast
"""From which keys are read."""


class BlockingEncryption:
    """As Encryption, for a blocking database."""

    def __init__(self, master: Mapping[str, bytes] | None = None) -> None:
        self._core = Encryption(master)

    def sealing(self, transaction: BlockingTransaction, *subjects: str) -> Sealing:
        """What seals values of these subjects, in a transaction; see Encryption.sealing."""
        return step(self._core.sealing(transaction._core, *subjects))  # noqa: SLF001

    def open(self, place: BlockingPlace, event: RecordedEvent) -> RecordedEvent:
        """The event with its sealed fields opened; see Encryption.open."""
        return step(self._core.open(place._core, event))  # noqa: SLF001

    def open_events(
        self, place: BlockingPlace, events: Iterable[RecordedEvent]
    ) -> list[RecordedEvent]:
        """Several events with their sealed fields opened."""
        return step(self._core.open_events(place._core, events))  # noqa: SLF001

    def open_value(self, place: BlockingPlace, key: Key, value: Any) -> Any:
        """The value of a key with its sealed fields opened."""
        return step(self._core.open_value(place._core, key, value))  # noqa: SLF001

    def shred(self, transaction: BlockingTransaction, *subjects: str) -> int:
        """Destroy the keys of subjects; see Encryption.shred."""
        return step(self._core.shred(transaction._core, *subjects))  # noqa: SLF001

    def rewrap(self, database: BlockingDatabase) -> int:
        """Wrap all keys with the newest master key; see Encryption.rewrap."""
        return step(self._core.rewrap(database._core))  # noqa: SLF001
