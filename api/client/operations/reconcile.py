"""The reconcile of the API. Generated from its routes by `python -m docs.generate`."""

from datetime import datetime

from api.client.calls import Call
from api.client.connection import AsyncConnection, Connection
from api.schemas.reconcile import ReconcilePage


def list_call(
    *, since: datetime | None = None, until: datetime | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[ReconcilePage]:
    """The call of `list`."""
    return Call(
        "GET",
        "/v1/reconcile",
        {200: ReconcilePage},
        query={"from": since, "to": until, "limit": limit, "cursor": cursor},
    )


class Reconcile:
    """Reconcile, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ReconcilePage:
        """List the hourly comparisons of the books."""
        return self._connection.send(list_call(since=since, until=until, limit=limit, cursor=cursor))


class AsyncReconcile:
    """Reconcile, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> ReconcilePage:
        """List the hourly comparisons of the books."""
        return await self._connection.send(list_call(since=since, until=until, limit=limit, cursor=cursor))
