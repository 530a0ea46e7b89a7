"""What is left of the limits of a caller."""

from sqlalchemy.ext.asyncio import AsyncConnection

from api.access.principal import Principal
from api.schemas.keys import LimitAnswer
from api.settings import Settings
from engine.store.control import count_queued


async def limits_of(connection: AsyncConnection, principal: Principal, settings: Settings) -> list[LimitAnswer]:
    """Every limit that holds for the principal."""
    queued = await count_queued(connection, principal.owner)
    return [LimitAnswer(name="queued", limit=settings.max_queued, left=max(0, settings.max_queued - queued))]
