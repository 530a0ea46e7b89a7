"""The operations of the API. Generated from its routes by `python -m docs.generate`."""

from api.client.calls import Call
from api.client.connection import AsyncConnection, Connection
from api.schemas.monitoring import Health, Readiness


def health_call() -> Call[Health]:
    """The call of `health`."""
    return Call("GET", "/healthz", {200: Health})


def readiness_call() -> Call[Readiness]:
    """The call of `readiness`."""
    return Call("GET", "/readyz", {200: Readiness})


class Operations:
    """Operations, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def health(
        self,
    ) -> Health:
        """Check that the process is alive, without touching the database."""
        return self._connection.send(health_call())

    def readiness(
        self,
    ) -> Readiness:
        """Check that the service accepts executions."""
        return self._connection.send(readiness_call())


class AsyncOperations:
    """Operations, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def health(
        self,
    ) -> Health:
        """Check that the process is alive, without touching the database."""
        return await self._connection.send(health_call())

    async def readiness(
        self,
    ) -> Readiness:
        """Check that the service accepts executions."""
        return await self._connection.send(readiness_call())
