"""Spans of the client, and the trace that is sent to the server.

    task          span "read_stream" ----------------------------------------.
    connection      trace 00-4bf9…-01, 1        read_stream order-1          | answer
    server                                      span "read_stream" ----------'

With `tracing=True`, the requests of a connection are wrapped, so others pay nothing. A request gets
a span of the kind CLIENT, a child of the task's span. If that is sampled, `trace` goes out with the
request in one packet, and the server can tell to which trace the request belongs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from headwater.errors import HeadwaterError, InvalidArgument
from headwater.transport.connection import Connection
from headwater_protocol.address import Address
from headwater_protocol.distribution import installed_version
from headwater_protocol.limits import TRACED_REQUESTS_MAX

SYSTEM: Final = "headwater"
"""The name of the database in OpenTelemetry's conventions: `db.system.name`."""

_TRACE_OPERATION: Final = "trace"


class Tracing:
    """Makes spans with OpenTelemetry's API."""

    def __init__(self, provider: Any = None) -> None:
        """*provider* is the tracer provider; None: the one of this process.

        Raises:
            InvalidArgument: the API is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise InvalidArgument(
                "tracing needs OpenTelemetry's API, which is not installed: "
                'pip install "headwater[otel]"'
            ) from error
        self._kind = trace.SpanKind.CLIENT
        self._failed = trace.Status(trace.StatusCode.ERROR)
        self._context = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("headwater.client", installed_version(), provider)

    async def wrap(self, connection: Connection, address: Address) -> None:
        """Make spans of all further requests of a connection."""
        try:
            # An older server does not know the operation. This one is about no request.
            await connection.ask(_TRACE_OPERATION, "00", 0)
            sends = True
        except HeadwaterError as error:
            if error.code != "unknown_operation":
                raise
            sends = False
        ask, exchange = connection.ask, connection.exchange

        async def traced_ask(name: str, *arguments: Any) -> Any:
            with self._span([name], address) as traceparent:
                if not (traceparent and sends):
                    return await ask(name, *arguments)
                answers = await exchange([(_TRACE_OPERATION, traceparent, 1), (name, *arguments)])
                return answers[1]

        async def traced_exchange(
            requests: Sequence[Sequence[Any]], on_sent: Callable[[], None] | None = None
        ) -> list[Any]:
            names = [request[0] for request in requests]
            with self._span(names, address) as traceparent:
                if not (traceparent and sends and len(names) <= TRACED_REQUESTS_MAX):
                    return await exchange(requests, on_sent)
                first = (_TRACE_OPERATION, traceparent, len(names))
                return (await exchange([first, *requests], on_sent))[1:]

        connection.ask = traced_ask  # type: ignore[method-assign]
        connection.exchange = traced_exchange  # type: ignore[method-assign]

    @contextmanager
    def _span(self, names: list[str], address: Address) -> Iterator[str]:
        """A span around requests that are sent together. Gives the traceparent, or ""."""
        # The last one says best what it is about: begin and the first reads go with it.
        attributes: dict[str, Any] = {"db.system.name": SYSTEM, "db.operation.name": names[-1]}
        if len(names) > 1:
            attributes["db.operation.batch.size"] = len(names)
        if address.path:
            attributes["server.address"] = address.path
        else:
            attributes["server.address"] = address.host
            attributes["server.port"] = address.port
        with self._tracer.start_as_current_span(
            names[-1],
            kind=self._kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            carrier: dict[str, str] = {}
            if span.get_span_context().trace_flags.sampled:
                self._context.inject(carrier)
            try:
                yield carrier.get("traceparent", "")
            except BaseException as error:
                code = error.code if isinstance(error, HeadwaterError) else type(error).__name__
                span.set_attribute("error.type", code)
                span.set_status(self._failed)
                raise
