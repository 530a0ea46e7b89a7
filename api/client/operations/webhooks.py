"""The webhooks of the API. Generated from its routes by `python -m docs.generate`."""

from datetime import datetime

from api.client.calls import Call, segment
from api.client.connection import AsyncConnection, Connection
from api.schemas.webhooks import (
    DeliveryAnswer,
    DeliveryDetail,
    DeliveryPage,
    EndpointAnswer,
    EndpointBody,
    EndpointChange,
    EndpointPage,
    NewEndpointAnswer,
    RedeliverBody,
    RedeliveredAnswer,
    RotateBody,
    SecretAnswer,
)


def list_endpoints_call(*, limit: int | None = None, cursor: str | None = None) -> Call[EndpointPage]:
    """The call of `list_endpoints`."""
    return Call("GET", "/v1/webhooks/endpoints", {200: EndpointPage}, query={"limit": limit, "cursor": cursor})


def create_endpoint_call(body: EndpointBody) -> Call[NewEndpointAnswer]:
    """The call of `create_endpoint`."""
    return Call("POST", "/v1/webhooks/endpoints", {201: NewEndpointAnswer}, body=body)


def get_endpoint_call(endpoint_id: str) -> Call[EndpointAnswer]:
    """The call of `get_endpoint`."""
    return Call("GET", f"/v1/webhooks/endpoints/{segment(endpoint_id)}", {200: EndpointAnswer})


def change_endpoint_call(endpoint_id: str, body: EndpointChange | None = None) -> Call[EndpointAnswer]:
    """The call of `change_endpoint`."""
    return Call("PATCH", f"/v1/webhooks/endpoints/{segment(endpoint_id)}", {200: EndpointAnswer}, body=body)


def delete_endpoint_call(endpoint_id: str) -> Call[None]:
    """The call of `delete_endpoint`."""
    return Call("DELETE", f"/v1/webhooks/endpoints/{segment(endpoint_id)}", {204: None})


def rotate_secret_call(endpoint_id: str, body: RotateBody | None = None) -> Call[SecretAnswer]:
    """The call of `rotate_secret`."""
    return Call("POST", f"/v1/webhooks/endpoints/{segment(endpoint_id)}/rotate-secret", {200: SecretAnswer}, body=body)


def test_endpoint_call(endpoint_id: str) -> Call[DeliveryAnswer]:
    """The call of `test_endpoint`."""
    return Call("POST", f"/v1/webhooks/endpoints/{segment(endpoint_id)}/test", {202: DeliveryAnswer})


def redeliver_range_call(endpoint_id: str, body: RedeliverBody) -> Call[RedeliveredAnswer]:
    """The call of `redeliver_range`."""
    return Call("POST", f"/v1/webhooks/endpoints/{segment(endpoint_id)}/redeliver", {202: RedeliveredAnswer}, body=body)


def list_deliveries_call(
    *,
    endpoint: str | None = None,
    state: str | None = None,
    event_type: str | None = None,
    execution_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[DeliveryPage]:
    """The call of `list_deliveries`."""
    return Call(
        "GET",
        "/v1/webhooks/deliveries",
        {200: DeliveryPage},
        query={
            "endpoint": endpoint,
            "state": state,
            "event_type": event_type,
            "execution_id": execution_id,
            "from": since,
            "to": until,
            "limit": limit,
            "cursor": cursor,
        },
    )


def get_delivery_call(delivery_id: str) -> Call[DeliveryDetail]:
    """The call of `get_delivery`."""
    return Call("GET", f"/v1/webhooks/deliveries/{segment(delivery_id)}", {200: DeliveryDetail})


def redeliver_call(delivery_id: str) -> Call[DeliveryAnswer]:
    """The call of `redeliver`."""
    return Call("POST", f"/v1/webhooks/deliveries/{segment(delivery_id)}/redeliver", {202: DeliveryAnswer})


class Webhooks:
    """Webhooks, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_endpoints(self, *, limit: int | None = None, cursor: str | None = None) -> EndpointPage:
        """List endpoints, newest first."""
        return self._connection.send(list_endpoints_call(limit=limit, cursor=cursor))

    def create_endpoint(self, body: EndpointBody) -> NewEndpointAnswer:
        """Create a webhook endpoint."""
        return self._connection.send(create_endpoint_call(body))

    def get_endpoint(self, endpoint_id: str) -> EndpointAnswer:
        """Get an endpoint."""
        return self._connection.send(get_endpoint_call(endpoint_id))

    def change_endpoint(self, endpoint_id: str, body: EndpointChange | None = None) -> EndpointAnswer:
        """Change, disable or enable an endpoint."""
        return self._connection.send(change_endpoint_call(endpoint_id, body))

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint and its deliveries."""
        return self._connection.send(delete_endpoint_call(endpoint_id))

    def rotate_secret(self, endpoint_id: str, body: RotateBody | None = None) -> SecretAnswer:
        """Give an endpoint a new secret."""
        return self._connection.send(rotate_secret_call(endpoint_id, body))

    def test_endpoint(self, endpoint_id: str) -> DeliveryAnswer:
        """Send `webhook.test` to an endpoint."""
        return self._connection.send(test_endpoint_call(endpoint_id))

    def redeliver_range(self, endpoint_id: str, body: RedeliverBody) -> RedeliveredAnswer:
        """Redeliver the events of a time range."""
        return self._connection.send(redeliver_range_call(endpoint_id, body))

    def list_deliveries(
        self,
        *,
        endpoint: str | None = None,
        state: str | None = None,
        event_type: str | None = None,
        execution_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DeliveryPage:
        """List deliveries, newest first."""
        return self._connection.send(
            list_deliveries_call(
                endpoint=endpoint,
                state=state,
                event_type=event_type,
                execution_id=execution_id,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor,
            )
        )

    def get_delivery(self, delivery_id: str) -> DeliveryDetail:
        """Get a delivery and its attempts."""
        return self._connection.send(get_delivery_call(delivery_id))

    def redeliver(self, delivery_id: str) -> DeliveryAnswer:
        """Send a delivery again."""
        return self._connection.send(redeliver_call(delivery_id))


class AsyncWebhooks:
    """Webhooks, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list_endpoints(self, *, limit: int | None = None, cursor: str | None = None) -> EndpointPage:
        """List endpoints, newest first."""
        return await self._connection.send(list_endpoints_call(limit=limit, cursor=cursor))

    async def create_endpoint(self, body: EndpointBody) -> NewEndpointAnswer:
        """Create a webhook endpoint."""
        return await self._connection.send(create_endpoint_call(body))

    async def get_endpoint(self, endpoint_id: str) -> EndpointAnswer:
        """Get an endpoint."""
        return await self._connection.send(get_endpoint_call(endpoint_id))

    async def change_endpoint(self, endpoint_id: str, body: EndpointChange | None = None) -> EndpointAnswer:
        """Change, disable or enable an endpoint."""
        return await self._connection.send(change_endpoint_call(endpoint_id, body))

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint and its deliveries."""
        return await self._connection.send(delete_endpoint_call(endpoint_id))

    async def rotate_secret(self, endpoint_id: str, body: RotateBody | None = None) -> SecretAnswer:
        """Give an endpoint a new secret."""
        return await self._connection.send(rotate_secret_call(endpoint_id, body))

    async def test_endpoint(self, endpoint_id: str) -> DeliveryAnswer:
        """Send `webhook.test` to an endpoint."""
        return await self._connection.send(test_endpoint_call(endpoint_id))

    async def redeliver_range(self, endpoint_id: str, body: RedeliverBody) -> RedeliveredAnswer:
        """Redeliver the events of a time range."""
        return await self._connection.send(redeliver_range_call(endpoint_id, body))

    async def list_deliveries(
        self,
        *,
        endpoint: str | None = None,
        state: str | None = None,
        event_type: str | None = None,
        execution_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> DeliveryPage:
        """List deliveries, newest first."""
        return await self._connection.send(
            list_deliveries_call(
                endpoint=endpoint,
                state=state,
                event_type=event_type,
                execution_id=execution_id,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor,
            )
        )

    async def get_delivery(self, delivery_id: str) -> DeliveryDetail:
        """Get a delivery and its attempts."""
        return await self._connection.send(get_delivery_call(delivery_id))

    async def redeliver(self, delivery_id: str) -> DeliveryAnswer:
        """Send a delivery again."""
        return await self._connection.send(redeliver_call(delivery_id))
