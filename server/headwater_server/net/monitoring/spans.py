"""Spans of the server: how it handled a request, as part of the client's trace.

A request gets a span only if its client sent a trace. The span is created when the request is
answered, with the start and end time of the request. OpenTelemetry's SDK, which
`opentelemetry-instrument` configures in this process, decides which spans to keep and where to
send them.
"""

import time
from typing import Any, Final

from headwater_protocol.distribution import installed_version
from headwater_protocol.errors import InvalidArgument

SYSTEM: Final = "headwater"
"""The name of the database in OpenTelemetry's conventions: `db.system.name`."""


class Spans:
    """Makes spans with OpenTelemetry's API."""

    def __init__(self, provider: Any = None) -> None:
        """*provider* is the tracer provider. If None, the global one of this process is used.

        Raises:
            InvalidArgument: the API is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise InvalidArgument(
                "spans need OpenTelemetry's API, which is not installed: "
                'pip install "headwater[server,otel]"'
            ) from error
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.Status(trace.StatusCode.ERROR)
        self._context = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("headwater.server", installed_version(), provider)

    def tell(self, name: str, session: Any, traceparent: str, took_ns: int, code: str) -> None:
        """Create the span of a request that has just ended. *code* is its error code, or ""."""
        ended = time.time_ns()
        attributes = {"db.system.name": SYSTEM, "db.operation.name": name}
        if session.user:
            attributes["user.name"] = session.user
        span = self._tracer.start_span(
            name,
            self._context.extract({"traceparent": traceparent}),
            kind=self._kind,
            attributes=attributes,
            start_time=ended - took_ns,
        )
        if code:
            span.set_attribute("error.type", code)
            span.set_status(self._failed)
        span.end(ended)
