"""The keys of the API. Generated from its routes by `python -m docs.generate`."""

from api.client.calls import Call, segment
from api.client.connection import AsyncConnection, Connection
from api.schemas.keys import KeyBody, KeyPage, Me, NewKeyAnswer


def list_call(*, limit: int | None = None, cursor: str | None = None) -> Call[KeyPage]:
    """The call of `list`."""
    return Call("GET", "/v1/keys", {200: KeyPage}, query={"limit": limit, "cursor": cursor})


def create_call(body: KeyBody) -> Call[NewKeyAnswer]:
    """The call of `create`."""
    return Call("POST", "/v1/keys", {201: NewKeyAnswer}, body=body)


def revoke_call(key_id: str) -> Call[None]:
    """The call of `revoke`."""
    return Call("DELETE", f"/v1/keys/{segment(key_id)}", {204: None})


def me_call() -> Call[Me]:
    """The call of `me`."""
    return Call("GET", "/v1/me", {200: Me})


class Keys:
    """Keys, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, limit: int | None = None, cursor: str | None = None) -> KeyPage:
        """List the keys of the owner, newest first."""
        return self._connection.send(list_call(limit=limit, cursor=cursor))

    def create(self, body: KeyBody) -> NewKeyAnswer:
        """Create a key of the same owner."""
        return self._connection.send(create_call(body))

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        return self._connection.send(revoke_call(key_id))

    def me(
        self,
    ) -> Me:
        """Get who asks."""
        return self._connection.send(me_call())


class AsyncKeys:
    """Keys, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self, *, limit: int | None = None, cursor: str | None = None) -> KeyPage:
        """List the keys of the owner, newest first."""
        return await self._connection.send(list_call(limit=limit, cursor=cursor))

    async def create(self, body: KeyBody) -> NewKeyAnswer:
        """Create a key of the same owner."""
        return await self._connection.send(create_call(body))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        return await self._connection.send(revoke_call(key_id))

    async def me(
        self,
    ) -> Me:
        """Get who asks."""
        return await self._connection.send(me_call())
