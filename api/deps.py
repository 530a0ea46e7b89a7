"""What routes are given: the running service, and who asks."""

from typing import Annotated

from fastapi import Depends, Query, Request
from opentelemetry import trace
from opentelemetry.context import Context
from pydantic import BaseModel, ConfigDict

from api.bootstrap import Runtime
from api.edge import ids_of
from engine.request import Caller

OWNER = "default"
"""Whoever reaches a service without keys."""

LINKED_TRACE = "spanloom.linked_trace"
"""Where the scope of a request holds the trace of a caller whom executions link to."""


class QueryModel(BaseModel):
    """The query parameters of a route; a misspelt one is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class NoQuery(QueryModel):
    """A route without query parameters."""


def _runtime(request: Request) -> Runtime:
    runtime = request.app.state.runtime
    assert isinstance(runtime, Runtime)
    return runtime


def _caller(request: Request) -> Caller:
    """The execution's root span goes below the span of the request."""
    span = trace.get_current_span()
    return Caller(
        owner=OWNER,
        correlation_id=ids_of(request).correlation_id,
        trace_context=trace.set_span_in_context(span, Context()) if span.get_span_context().is_valid else None,
        trace_link=request.scope.get(LINKED_TRACE),
    )


RuntimeDep = Annotated[Runtime, Depends(_runtime)]
CallerDep = Annotated[Caller, Depends(_caller)]
NoQueryDep = Annotated[NoQuery, Query()]
