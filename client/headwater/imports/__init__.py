"""Importing events from elsewhere: `headwater import`, and the same for programs.

    with headwater.connect_blocking(url) as db:
        with MessageDb("postgresql://localhost/message_store") as source:
            imported = import_events(db, source, name="orders")
    position_of(db, "orders", 4711)        # where the event is that was at position 4711 there

A source gives events in order, each with the position that it had. `importing.py` writes them and
remembers how far it has come, in the same transaction, so that an import can be interrupted and
repeated. `verifying.py` compares both sides.
"""

from headwater.imports.importing import Imported, import_events
from headwater.imports.json_lines import JsonLines
from headwater.imports.message_db import MessageDb
from headwater.imports.positions import position_of, positions
from headwater.imports.source import Source, SourceEvent
from headwater.imports.verifying import verify

__all__ = [
    "Imported",
    "JsonLines",
    "MessageDb",
    "Source",
    "SourceEvent",
    "import_events",
    "position_of",
    "positions",
    "verify",
]
