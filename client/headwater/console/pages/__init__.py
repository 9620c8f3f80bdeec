"""The pages: each module has the handlers of one part of the navigation.

A handler reads the database as it was at the moment of the visit, and returns what its template
shows. It reads a bounded number of rows, whatever the address asks for.
"""

from typing import Final

from headwater.console.pages.commits import commits
from headwater.console.pages.consumers import consumers
from headwater.console.pages.events import event, events
from headwater.console.pages.keys import keys
from headwater.console.pages.overview import overview
from headwater.console.pages.stream import stream
from headwater.console.pages.streams import streams
from headwater.console.pages.verifying import verify
from headwater.console.visits import Handler

PAGES: Final[dict[str, Handler]] = {
    "/": overview,
    "/streams": streams,
    "/stream": stream,
    "/events": events,
    "/event": event,
    "/keys": keys,
    "/commits": commits,
    "/consumers": consumers,
    "/verify": verify,
}
"""The handler of each address."""
