"""/v1/webhooks: endpoints, their deliveries, and redelivery."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.http.dependencies import DeliveryId, EndpointId, NoQueryDep, QueryModel, RuntimeDep
from api.http.pagination import read_cursor, read_time, write_cursor
from api.http.principal import Principal, needs
from api.http.request_bodies import NoBody, read_body
from api.http.responses import json_response, next_link, openapi_body, openapi_responses
from api.schemas import webhooks as documents
from api.schemas.timestamps import Time
from api.wiring.webhooks import build_egress, build_sealer
from telemetry.webhooks import deliveries, endpoints

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Text = Annotated[str, Field(min_length=1, max_length=255)]
_WITH_BODY = ("malformed_json", "body_too_large", "unsupported_media_type", "invalid_request")


class EndpointsQuery(QueryModel):
    """The page of endpoints."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None


class DeliveriesQuery(QueryModel):
    """Filters of the list; `from` and `to` select by the creation of the delivery (half-open)."""

    endpoint: Text | None = None
    state: Literal["pending", "delivered", "failed"] | None = None
    event_type: Text | None = None
    execution_id: Text | None = None
    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to")
    limit: int = Field(50, ge=1, le=200)
    cursor: Text | None = None

    def wanted(self) -> deliveries.DeliveryFilter:
        """The filters, as the query takes them."""
        names = DeliveriesQuery.model_fields.keys() - {"limit", "cursor"}
        return deliveries.DeliveryFilter(**{name: getattr(self, name) for name in names})


@router.get(
    "/endpoints",
    operation_id="webhooks_list_endpoints",
    summary="List endpoints, newest first",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of endpoints.", "model": documents.EndpointPage}},
        "invalid_request",
        "invalid_cursor",
    ),
)
async def list_endpoints(
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: Annotated[EndpointsQuery, Query()],
) -> Response:
    """The endpoints without their secrets."""
    async with runtime.database.read() as connection:
        found, end = await endpoints.list_endpoints(
            connection, principal.owner, limit=query.limit, after=_position(query)
        )
    cursor = _cursor(end, query)
    page = documents.EndpointPage(items=[documents.endpoint(one) for one in found], next_cursor=cursor)
    return json_response(page, headers=next_link(request, cursor))


@router.post(
    "/endpoints",
    operation_id="webhooks_create_endpoint",
    summary="Create a webhook endpoint",
    response_model=None,
    responses=openapi_responses(
        {
            201: {
                "description": "The endpoint with its secret, which is shown only once.",
                "model": documents.NewEndpointAnswer,
                "headers": {"Location": {"description": "The path of the endpoint.", "schema": {"type": "string"}}},
            }
        },
        *_WITH_BODY,
        "url_not_allowed",
    ),
    openapi_extra=openapi_body("EndpointBody"),
)
async def create_endpoint(
    request: Request, runtime: RuntimeDep, principal: Annotated[Principal, needs("webhooks:manage")], query: NoQueryDep
) -> Response:
    """The endpoint receives events from now on."""
    body = await read_body(request, documents.EndpointBody)
    await build_egress(runtime.settings).check(body.url)
    new = endpoints.NewEndpoint(body.url, body.events, body.templates, body.headers, body.description)
    async with runtime.database.begin() as connection:
        made, secret = await endpoints.create(connection, principal.owner, new, build_sealer(runtime.settings))
    headers = {"Location": f"/v1/webhooks/endpoints/{made.id}"}
    return json_response(documents.new_endpoint(made, secret), 201, headers)


@router.get(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_get_endpoint",
    summary="Get an endpoint",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The endpoint.", "model": documents.EndpointAnswer}}, "not_found", "invalid_request"
    ),
)
async def get_endpoint(
    endpoint_id: EndpointId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """The endpoint without its secret."""
    async with runtime.database.read() as connection:
        return json_response(documents.endpoint(await endpoints.get(connection, principal.owner, endpoint_id)))


@router.patch(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_change_endpoint",
    summary="Change, disable or enable an endpoint",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The endpoint as it is now.", "model": documents.EndpointAnswer}},
        *_WITH_BODY,
        "not_found",
        "url_not_allowed",
    ),
    openapi_extra=openapi_body("EndpointChange"),
)
async def change_endpoint(
    endpoint_id: EndpointId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """A disabled endpoint receives nothing. After it is enabled, `redeliver` sends the events that it missed."""
    body = await read_body(request, documents.EndpointChange)
    if body.url is not None:
        await build_egress(runtime.settings).check(body.url)
    async with runtime.database.begin() as connection:
        changed = await endpoints.change(
            connection, principal.owner, endpoint_id, body.changes(), build_sealer(runtime.settings)
        )
    return json_response(documents.endpoint(changed))


@router.delete(
    "/endpoints/{endpoint_id}",
    operation_id="webhooks_delete_endpoint",
    summary="Delete an endpoint and its deliveries",
    response_model=None,
    status_code=204,
    responses=openapi_responses({204: {"description": "The endpoint is deleted."}}, "not_found", "invalid_request"),
)
async def delete_endpoint(
    endpoint_id: EndpointId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """Nothing more is sent to the endpoint, except requests that are already being sent."""
    async with runtime.database.begin() as connection:
        await endpoints.remove(connection, principal.owner, endpoint_id)
    return Response(status_code=204)


@router.post(
    "/endpoints/{endpoint_id}/rotate-secret",
    operation_id="webhooks_rotate_secret",
    summary="Give an endpoint a new secret",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The new secret, which is shown only once.", "model": documents.SecretAnswer}},
        *_WITH_BODY,
        "not_found",
    ),
    openapi_extra=openapi_body("RotateBody"),
)
async def rotate_secret(
    endpoint_id: EndpointId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """Requests are signed with both secrets for `overlap_hours`."""
    body = await read_body(request, documents.RotateBody, optional=True)
    async with runtime.database.begin() as connection:
        secret, until = await endpoints.rotate_secret(
            connection, principal.owner, endpoint_id, body.overlap_hours, build_sealer(runtime.settings)
        )
    return json_response(documents.SecretAnswer(secret=secret, old_valid_until=until))


@router.post(
    "/endpoints/{endpoint_id}/test",
    operation_id="webhooks_test_endpoint",
    summary="Send `webhook.test` to an endpoint",
    response_model=None,
    status_code=202,
    responses=openapi_responses(
        {202: {"description": "The delivery.", "model": documents.DeliveryAnswer}},
        *_WITH_BODY,
        "not_found",
        "endpoint_disabled",
    ),
    openapi_extra=openapi_body("NoBody"),
)
async def test_endpoint(
    endpoint_id: EndpointId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """The event is sent at once; the delivery shows the outcome."""
    await read_body(request, NoBody, optional=True)
    async with runtime.database.begin() as connection:
        made = await deliveries.send_test(connection, principal.owner, endpoint_id)
    return json_response(documents.delivery(made), 202)


@router.post(
    "/endpoints/{endpoint_id}/redeliver",
    operation_id="webhooks_redeliver_range",
    summary="Redeliver the events of a time range",
    response_model=None,
    status_code=202,
    responses=openapi_responses(
        {202: {"description": "The number of deliveries that are sent again.", "model": documents.RedeliveredAnswer}},
        *_WITH_BODY,
        "not_found",
        "endpoint_disabled",
    ),
    openapi_extra=openapi_body("RedeliverBody"),
)
async def redeliver_range(
    endpoint_id: EndpointId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """Sends events again with the same ids and bytes, including events missed while the endpoint was disabled."""
    body = await read_body(request, documents.RedeliverBody)
    async with runtime.database.begin() as connection:
        count = await deliveries.redeliver_range(
            connection, principal.owner, endpoint_id, body.since, body.until, body.only
        )
    return json_response(documents.RedeliveredAnswer(deliveries=count), 202)


@router.get(
    "/deliveries",
    operation_id="webhooks_list_deliveries",
    summary="List deliveries, newest first",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "A page of deliveries.", "model": documents.DeliveryPage}},
        "invalid_request",
        "invalid_cursor",
    ),
)
async def list_deliveries(
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: Annotated[DeliveriesQuery, Query()],
) -> Response:
    """The deliveries that match all filters."""
    async with runtime.database.read() as connection:
        found, end = await deliveries.list_deliveries(
            connection, principal.owner, query.wanted(), limit=query.limit, after=_position(query)
        )
    cursor = _cursor(end, query)
    page = documents.DeliveryPage(items=[documents.delivery(one) for one in found], next_cursor=cursor)
    return json_response(page, headers=next_link(request, cursor))


@router.get(
    "/deliveries/{delivery_id}",
    operation_id="webhooks_get_delivery",
    summary="Get a delivery and its attempts",
    response_model=None,
    responses=openapi_responses(
        {200: {"description": "The delivery.", "model": documents.DeliveryDetail}}, "not_found", "invalid_request"
    ),
)
async def get_delivery(
    delivery_id: DeliveryId,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """The delivery, with the first 2 KiB of each reply."""
    async with runtime.database.read() as connection:
        found = await deliveries.get_delivery(connection, principal.owner, delivery_id)
        attempts = await deliveries.read_attempts(connection, found)
    return json_response(documents.delivery_detail(found, attempts))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    operation_id="webhooks_redeliver",
    summary="Send a delivery again",
    response_model=None,
    status_code=202,
    responses=openapi_responses(
        {202: {"description": "The delivery.", "model": documents.DeliveryAnswer}},
        *_WITH_BODY,
        "not_found",
        "endpoint_disabled",
    ),
    openapi_extra=openapi_body("NoBody"),
)
async def redeliver(
    delivery_id: DeliveryId,
    request: Request,
    runtime: RuntimeDep,
    principal: Annotated[Principal, needs("webhooks:manage")],
    query: NoQueryDep,
) -> Response:
    """The delivery keeps its id and bytes; its schedule of attempts starts again."""
    await read_body(request, NoBody, optional=True)
    async with runtime.database.begin() as connection:
        found = await deliveries.redeliver(connection, principal.owner, delivery_id)
    return json_response(documents.delivery(found), 202)


def _position(query: EndpointsQuery | DeliveriesQuery) -> endpoints.WebhookCursor | None:
    def read(created_at: str, id_: str) -> endpoints.WebhookCursor:
        return endpoints.WebhookCursor(read_time(created_at), id_)

    return read_cursor(query.cursor, query, read)


def _cursor(end: endpoints.WebhookCursor | None, query: EndpointsQuery | DeliveriesQuery) -> str | None:
    return write_cursor([end.created_at.isoformat(), end.id], query) if end else None
