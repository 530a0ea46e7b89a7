"""What providers reported as the cost of their calls, beside what was booked. A difference is no fault of the books."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from telemetry.store.tables import spans


@dataclass(frozen=True, slots=True)
class ProviderBill:
    """The calls of one model whose cost the provider reported; nano-USD."""

    provider: str
    model: str
    calls: int
    reported_nano_usd: int
    booked_nano_usd: int

    @property
    def difference_nano_usd(self) -> int:
        """What was reported beyond what was booked; negative if more was booked."""
        return self.reported_nano_usd - self.booked_nano_usd


async def read_bills(connection: AsyncConnection, within: ColumnElement[bool]) -> Sequence[ProviderBill]:
    """The bills of the spans within a window, largest difference first."""
    c = spans.c
    statement = (
        select(
            func.coalesce(c.provider, ""),
            func.coalesce(c.model, ""),
            func.count(),
            cast(func.sum(c.provider_nano_usd), BigInteger),
            cast(func.coalesce(func.sum(c.cost_nano_usd), 0), BigInteger),
        )
        .where(within, c.provider_nano_usd.is_not(None))
        .group_by(c.provider, c.model)
    )
    bills = [ProviderBill(*row) for row in await connection.execute(statement)]
    return sorted(bills, key=lambda bill: (-abs(bill.difference_nano_usd), bill.provider, bill.model))
