"""The HTTP application: its routes, middleware, error handlers and OpenAPI document."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import RouteContext, iter_route_contexts
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.http.cors import Cors
from api.http.middleware import OuterMiddleware, ids_of
from api.http.principal import LINKED_TRACE
from api.http.problems import Problem
from api.http.request_bodies import invalid_parameters
from api.http.request_spans import excluded_by, in_callers_trace
from api.routers import (
    analytics,
    decisions,
    documentation,
    events,
    executions,
    keys,
    monitoring,
    reconcile,
    scores,
    webhooks,
)
from api.service.openapi import describe
from api.wiring.runtime import Runtime

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ROUTES = (
    executions,
    events,
    decisions,
    scores,
    analytics,
    webhooks,
    keys,
    reconcile,
    monitoring,
    documentation,
)
_TRACE_HEADERS = (b"traceparent", b"tracestate")


class Service(FastAPI):
    """FastAPI, with the setting for the caller's `traceparent`.

    FastAPI joins the caller's trace. For `link` and `ignore` the trace headers are removed from the request first.
    A request without a span of its own is handled in the caller's.
    """

    traceparent: str = "join"
    is_untraced: Callable[[Scope], bool] = staticmethod(excluded_by("all"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] == "http"
        if is_request and self.traceparent != "join":
            if self.traceparent == "link":
                scope[LINKED_TRACE] = TraceContextTextMapPropagator().extract(Headers(scope=scope))
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in _TRACE_HEADERS]
        with in_callers_trace(scope) if is_request and self.is_untraced(scope) else nullcontext():
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with our problem documents instead of FastAPI's own 422."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(self)
        return self.openapi_schema


def create_app(runtime: Runtime) -> Service:
    """The application of a running service."""
    settings = runtime.settings
    is_untraced = excluded_by(settings.http_spans)
    app = _bare(
        telemetry={
            "tracer_provider": runtime.telemetry.tracer_provider,
            "tracing": True,
            "operation_spans": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
            "exclude": is_untraced,
        }
    )
    app.traceparent, app.is_untraced = settings.traceparent, is_untraced
    app.state.runtime = runtime
    app.add_middleware(
        OuterMiddleware,
        allowed_hosts=settings.hosts,
        max_body_bytes=settings.max_body_bytes,
        is_closed=lambda: runtime.gate.is_closed,
    )
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins, is_closed=lambda: runtime.gate.is_closed)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, without a running service."""
    return _bare().openapi()


def routes() -> list[RouteContext]:
    """Every route of the application, those that OpenAPI leaves out too."""
    return list(iter_route_contexts(_bare().routes))


def _bare(**settings: Any) -> Service:
    app = Service(
        title="spanloom",
        summary="Runs LLM workflows and keeps their books.",
        version=version("spanloom"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        **settings,
    )
    app.add_exception_handler(HTTPException, _routing_problem)
    app.add_exception_handler(RequestValidationError, _parameter_problem)
    app.add_exception_handler(Exception, _leave_unanswered)
    for routes in _ROUTES:
        app.include_router(routes.router)
    return app


async def _leave_unanswered(request: Request, error: Exception) -> Response:
    """Starlette would answer in plain text."""
    raise error


async def _parameter_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid_parameters(error).response(ids_of(request), request.url.path)


async def _routing_problem(request: Request, error: Exception) -> Response:
    """The problem for an unknown path, or for a method that the path does not support."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        problem = Problem("method_not_allowed", f"Allowed methods: {allowed}.", headers={"Allow": allowed})
    else:
        problem = Problem("not_found", "Not found: this path does not exist.")
    return problem.response(ids_of(request), request.url.path)


def _allowed(request: Request) -> list[str]:
    """All methods of the path: the router names only the methods of one route."""
    routes = request.app.router.routes
    scopes = {method: dict(request.scope) | {"method": method} for method in METHODS}
    return [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]
