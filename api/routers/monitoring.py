"""/healthz, /readyz, /metrics and /runbook, for operators."""

from functools import cache
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response

from api.http.dependencies import NoQueryDep, RuntimeDep
from api.http.principal import is_local, require, sees_operations
from api.http.responses import RETRY_LATER, json_response, openapi_responses
from api.schemas.monitoring import Check, Health, Readiness
from engine.errors import Draining

RUNBOOK = Path(__file__).with_name("runbook.html")
_HTML_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_HTML_HEADERS = {
    name: {"description": "What the page may load.", "schema": {"type": "string"}} for name in _HTML_POLICY
}

router = APIRouter(tags=["operations"])


@router.head("/healthz", include_in_schema=False)
@router.get(
    "/healthz",
    operation_id="operations_health",
    summary="Check that the process is alive, without touching the database",
    response_model=None,
    responses=openapi_responses({200: {"description": "The process is alive.", "model": Health}}, "invalid_request"),
)
async def health(query: NoQueryDep) -> Response:
    """Always 200, with the version of the service."""
    return json_response(Health(version=version("spanloom")))


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="operations_readiness",
    summary="Check that the service accepts executions",
    response_model=None,
    responses=openapi_responses(
        {
            200: {"description": "The service accepts executions.", "model": Readiness},
            503: {"description": "The service accepts no executions; the checks say why.", "model": Readiness},
        },
        "invalid_request",
    ),
)
async def readiness(request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Checks the database, its schema, that it can be written, and that the service is not stopping.

    A good answer counts for two seconds; until there is one, requests that come together share one question. Once the
    service has keys, what is wrong is told to those with the scope ops only.
    """
    draining = {"draining": Draining().message if runtime.is_draining else None}
    troubles = {**await runtime.readiness.troubles(), **draining}
    shows_details = await sees_operations(request)
    checks = {
        name: Check(ok=trouble is None, detail=trouble if shows_details else None) for name, trouble in troubles.items()
    }
    ok = all(check.ok for check in checks.values())
    answer = Readiness.model_validate({"status": "ready" if ok else "not_ready", "checks": checks})
    return json_response(answer) if ok else json_response(answer, 503, RETRY_LATER)


@router.get(
    "/metrics",
    operation_id="operations_metrics",
    summary="Get the metrics for Prometheus, as OpenMetrics or in the older text format, by `Accept`",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The metrics.", "content": {"text/plain": {}, "application/openmetrics-text": {}}}},
        "invalid_request",
    ),
    openapi_extra={"security": [{}, {"key": ["metrics:read"]}]},
)
async def metrics(request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Exact counters are read from the roll-ups at the time of the request.

    Once the service has keys, requests from other machines need one with the scope metrics:read.
    """
    if not is_local(request):
        await require(request, "metrics:read")
    content_type, content = await runtime.metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


@router.get(
    "/runbook",
    operation_id="operations_runbook",
    summary="Read what to do about each alert; the alerts' `runbook_url` leads here",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The page.", "content": {"text/html": {}}, "headers": _HTML_HEADERS}},
        "invalid_request",
    ),
)
async def runbook(query: NoQueryDep) -> Response:
    """The page needs no database: it is there when the database is not."""
    return Response(_runbook(), headers=_HTML_POLICY, media_type="text/html")


@cache
def _runbook() -> bytes:
    return RUNBOOK.read_bytes()
