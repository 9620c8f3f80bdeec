"""Administrative writes with a transaction id: a request that is sent again is answered again.

The id is the last argument. Without one, a client whose answer was lost cannot know whether the
write happened: the same request again would be refused, because it did.
"""

from collections.abc import Callable
from typing import Any

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.engine import Engine
from headwater_server.net.service import Handler
from headwater_server.net.session.session import Session

Repeated = Callable[[Engine, int, list[Any]], Any]
"""The payload of the answer to a request that was done before, as a commit."""


Written = Callable[[list[Any]], bytes]
"""What the keys begin with that a request writes, from its arguments."""


def nil(_engine: Engine, _commit: int, _arguments: list[Any]) -> None:
    """The payload of most answers."""


def identified(handler: Handler, written: Written, repeated: Repeated = nil) -> Handler:
    """A handler that does a request once, however often it is sent with the same id.

    The handler raises InvalidArgument if something else was done with that id.
    """

    def handle(session: Session, request_id: int, arguments: list[Any]) -> bytes | None:
        transaction = arguments[-1]
        engine = session.service.engine
        known = None if transaction is None else engine.known(transaction)
        if known is None:
            if transaction is not None:
                engine.check_not_open(transaction)
            return handler(session, request_id, arguments)
        ticket = engine.sequencer.answer_again(transaction, known)
        session.service.check_answer(session, ticket)
        if ticket.error is None and not engine.wrote_key(known, written(arguments)):
            raise InvalidArgument(
                f"transaction {transaction.hex()} was another one, commit {known}; "
                "each needs an id of its own"
            )
        payload = None if ticket.error is not None else repeated(engine, known, arguments)

        def answer(connection: ServerConnection) -> bytes:
            if ticket.error is not None:
                return connection.error(request_id, ticket.error)
            return connection.answer(request_id, payload)

        return session.answer_durable(request_id, ticket, answer)

    return handle
