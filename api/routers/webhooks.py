"""/v1/webhooks: endpoints, their deliveries, and redelivery."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.http.dependencies import OWNER, NoQueryDep, QueryModel, RuntimeDep
from api.http.pagination import read_cursor, write_cursor
from api.http.request_bodies import read_body
from api.http.responses import answers, json_answer, next_link, takes_body
from api.schemas import webhooks as documents
from api.schemas.timestamps import Time
from api.wiring.webhooks import build_egress, build_sealer
from telemetry.webhooks import deliveries, endpoints

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Text = Annotated[str, Field(min_length=1, max_length=255)]
_WITH_BODY = ("malformed_json", "body_too_large", "unsupported_media_type", "invalid_request")


class EndpointsQuery(QueryModel):
    """Which page of endpoints."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None


class DeliveriesQuery(QueryModel):
    """Filters of the list; `from` and `to` bound when a delivery was made, half-open."""

    endpoint: Text | None = None
    state: Literal["pending", "delivered", "failed"] | None = None
    event_type: Text | None = None
    execution_id: Text | None = None
    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None

    def wanted(self) -> deliveries.DeliveryFilter:
        """The filters."""
        names = DeliveriesQuery.model_fields.keys() - {"limit", "cursor"}
        return deliveries.DeliveryFilter(**{name: getattr(self, name) for name in names})


@router.get(
    "/endpoints",
    operation_id="webhooks_list_endpoints",
    summary="List endpoints, newest first",
    response_model=None,
    responses=answers(
        {200: {"description": "A page.", "model": documents.EndpointPage}}, "invalid_request", "invalid_cursor"
    ),
)
async def list_endpoints(request: Request, runtime: RuntimeDep, query: Annotated[EndpointsQuery, Query()]) -> Response:
    """Without their secrets."""
    async with runtime.database.read() as connection:
        found, end = await endpoints.list_endpoints(connection, OWNER, limit=query.limit, after=_position(query))
    cursor = _cursor(end, query)
    page = documents.EndpointPage(items=[documents.endpoint(one) for one in found], next_cursor=cursor)
    return json_answer(page, headers=next_link(request, cursor))


@router.post(
    "/endpoints",
    operation_id="webhooks_create_endpoint",
    summary="Create a webhook endpoint",
    response_model=None,
    responses=answers(
        {
            201: {
                "description": "The endpoint with its secret, which is shown this once.",
                "model": documents.NewEndpointAnswer,
                "headers": {"Location": {"description": "Where to look.", "schema": {"type": "string"}}},
            }
        },
        *_WITH_BODY,
        "url_not_allowed",
    ),
    openapi_extra=takes_body("EndpointBody"),
)
async def create_endpoint(request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """It hears of what happens from now on."""
    body = await read_body(request, documents.EndpointBody)
    await build_egress(runtime.settings).check(body.url)
    new = endpoints.NewEndpoint(body.url, body.events, body.templates, body.headers, body.description)
    async with runtime.database.begin() as connection:
        made, secret = await endpoints.create(connection, OWNER, new, build_sealer(runtime.settings))
    headers = {"Location": f"/v1/webhooks/endpoints/{made.id}"}
    return json_answer(documents.new_endpoint(made, secret), 201, headers)


@router.get(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_get_endpoint",
    summary="Look at one endpoint",
    response_model=None,
    responses=answers(
        {200: {"description": "The endpoint.", "model": documents.EndpointAnswer}}, "not_found", "invalid_request"
    ),
)
async def get_endpoint(endpoint_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Without its secret."""
    async with runtime.database.read() as connection:
        return json_answer(documents.endpoint(await endpoints.get(connection, OWNER, endpoint_id)))


@router.patch(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_change_endpoint",
    summary="Change, disable or enable an endpoint",
    response_model=None,
    responses=answers(
        {200: {"description": "The endpoint as it is now.", "model": documents.EndpointAnswer}},
        *_WITH_BODY,
        "not_found",
        "url_not_allowed",
    ),
    openapi_extra=takes_body("EndpointChange"),
)
async def change_endpoint(endpoint_id: str, request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """While it is disabled nothing is sent; `redeliver` sends afterwards what it missed."""
    body = await read_body(request, documents.EndpointChange)
    if body.url is not None:
        await build_egress(runtime.settings).check(body.url)
    async with runtime.database.begin() as connection:
        changed = await endpoints.change(connection, OWNER, endpoint_id, body.changes(), build_sealer(runtime.settings))
    return json_answer(documents.endpoint(changed))


@router.delete(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_delete_endpoint",
    summary="Delete an endpoint and its deliveries",
    response_model=None,
    status_code=204,
    responses=answers({204: {"description": "The endpoint is deleted."}}, "not_found", "invalid_request"),
)
async def delete_endpoint(endpoint_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Nothing more is sent to it, but for what is on its way."""
    async with runtime.database.begin() as connection:
        await endpoints.remove(connection, OWNER, endpoint_id)
    return Response(status_code=204)


@router.post(
    "/endpoints/{endpoint_id}/rotate-secret",
    operation_id="webhooks_rotate_secret",
    summary="Give an endpoint a new secret",
    response_model=None,
    responses=answers(
        {200: {"description": "The secret, which is shown this once.", "model": documents.SecretAnswer}},
        *_WITH_BODY,
        "not_found",
    ),
    openapi_extra=takes_body("RotateBody", required=False),
)
async def rotate_secret(endpoint_id: str, request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """For a while both secrets sign."""
    body = await read_body(request, documents.RotateBody, optional=True)
    async with runtime.database.begin() as connection:
        secret, until = await endpoints.rotate_secret(
            connection, OWNER, endpoint_id, body.overlap_hours, build_sealer(runtime.settings)
        )
    return json_answer(documents.SecretAnswer(secret=secret, old_valid_until=until))


@router.post(
    "/endpoints/{endpoint_id}/test",
    operation_id="webhooks_test_endpoint",
    summary="Send `webhook.test` to an endpoint",
    response_model=None,
    status_code=202,
    responses=answers(
        {202: {"description": "The delivery.", "model": documents.DeliveryAnswer}},
        "not_found",
        "endpoint_disabled",
        "invalid_request",
    ),
)
async def test_endpoint(endpoint_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """It is sent at once; the delivery tells what came of it."""
    async with runtime.database.begin() as connection:
        made = await deliveries.send_test(connection, OWNER, endpoint_id)
    return json_answer(documents.delivery(made), 202)


@router.post(
    "/endpoints/{endpoint_id}/redeliver",
    operation_id="webhooks_redeliver_range",
    summary="Redeliver the events of a time range",
    response_model=None,
    status_code=202,
    responses=answers(
        {202: {"description": "How many are sent.", "model": documents.RedeliveredAnswer}},
        *_WITH_BODY,
        "not_found",
        "endpoint_disabled",
    ),
    openapi_extra=takes_body("RedeliverBody"),
)
async def redeliver_range(endpoint_id: str, request: Request, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """Also what it missed while it was disabled; ids and bytes stay."""
    body = await read_body(request, documents.RedeliverBody)
    async with runtime.database.begin() as connection:
        count = await deliveries.redeliver_range(connection, OWNER, endpoint_id, body.since, body.until, body.only)
    return json_answer(documents.RedeliveredAnswer(deliveries=count), 202)


@router.get(
    "/deliveries",
    operation_id="webhooks_list_deliveries",
    summary="List deliveries, newest first",
    response_model=None,
    responses=answers(
        {200: {"description": "A page.", "model": documents.DeliveryPage}}, "invalid_request", "invalid_cursor"
    ),
)
async def list_deliveries(
    request: Request, runtime: RuntimeDep, query: Annotated[DeliveriesQuery, Query()]
) -> Response:
    """Those that fit all filters."""
    async with runtime.database.read() as connection:
        found, end = await deliveries.list_deliveries(
            connection, OWNER, query.wanted(), limit=query.limit, after=_position(query)
        )
    cursor = _cursor(end, query)
    page = documents.DeliveryPage(items=[documents.delivery(one) for one in found], next_cursor=cursor)
    return json_answer(page, headers=next_link(request, cursor))


@router.get(
    "/deliveries/{delivery_id}",
    operation_id="webhooks_get_delivery",
    summary="Look at one delivery and its attempts",
    response_model=None,
    responses=answers(
        {200: {"description": "The delivery.", "model": documents.DeliveryDetail}}, "not_found", "invalid_request"
    ),
)
async def get_delivery(delivery_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """With the first 2 KiB of each reply."""
    async with runtime.database.read() as connection:
        found = await deliveries.get_delivery(connection, OWNER, delivery_id)
        attempts = await deliveries.read_attempts(connection, found)
    return json_answer(documents.delivery_detail(found, attempts))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    operation_id="webhooks_redeliver",
    summary="Send a delivery again",
    response_model=None,
    status_code=202,
    responses=answers(
        {202: {"description": "The delivery.", "model": documents.DeliveryAnswer}},
        "not_found",
        "endpoint_disabled",
        "invalid_request",
    ),
)
async def redeliver(delivery_id: str, runtime: RuntimeDep, query: NoQueryDep) -> Response:
    """With the same id and bytes, and the schedule from its beginning."""
    async with runtime.database.begin() as connection:
        found = await deliveries.redeliver(connection, OWNER, delivery_id)
    return json_answer(documents.delivery(found), 202)


def _position(query: EndpointsQuery | DeliveriesQuery) -> endpoints.WebhookCursor | None:
    if query.cursor is None:
        return None
    created_at, id_ = read_cursor(query.cursor, query)
    return endpoints.WebhookCursor(datetime.fromisoformat(created_at), id_)


def _cursor(end: endpoints.WebhookCursor | None, query: EndpointsQuery | DeliveriesQuery) -> str | None:
    return write_cursor([end.created_at.isoformat(), end.id], query) if end else None
