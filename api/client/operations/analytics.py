"""The analytics of the API. Generated from its routes by `python -m docs.generate`."""

from collections.abc import Sequence
from datetime import datetime

from api.client.calls import Call
from api.client.connection import AsyncConnection, Connection
from api.schemas.executions import CostAnswer
from api.schemas.scores import ScoresAnswer


def cost_call(
    *,
    group_by: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    template: str | None = None,
    workflow: str | None = None,
    source: str | None = None,
    provider: str | None = None,
    model: str | None = None,
) -> Call[CostAnswer]:
    """The call of `cost`."""
    return Call(
        "GET",
        "/v1/analytics/cost",
        {200: CostAnswer},
        query={
            "group_by": group_by,
            "from": since,
            "to": until,
            "template": template,
            "workflow": workflow,
            "source": source,
            "provider": provider,
            "model": model,
        },
    )


def scores_call(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    template: str | None = None,
    workflow: str | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Call[ScoresAnswer]:
    """The call of `scores`."""
    return Call(
        "GET",
        "/v1/analytics/scores",
        {200: ScoresAnswer},
        query={"from": since, "to": until, "template": template, "workflow": workflow, "name": name, "source": source},
    )


class Analytics:
    """Analytics, as methods of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def cost(
        self,
        *,
        group_by: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        template: str | None = None,
        workflow: str | None = None,
        source: str | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> CostAnswer:
        """Get the cost of executions, per group."""
        return self._connection.send(
            cost_call(
                group_by=group_by,
                since=since,
                until=until,
                template=template,
                workflow=workflow,
                source=source,
                provider=provider,
                model=model,
            )
        )

    def scores(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        template: str | None = None,
        workflow: str | None = None,
        name: str | None = None,
        source: str | None = None,
    ) -> ScoresAnswer:
        """Get the mean scores of workflows, per version of their templates."""
        return self._connection.send(
            scores_call(since=since, until=until, template=template, workflow=workflow, name=name, source=source)
        )


class AsyncAnalytics:
    """Analytics, as methods of a client."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def cost(
        self,
        *,
        group_by: Sequence[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        template: str | None = None,
        workflow: str | None = None,
        source: str | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> CostAnswer:
        """Get the cost of executions, per group."""
        return await self._connection.send(
            cost_call(
                group_by=group_by,
                since=since,
                until=until,
                template=template,
                workflow=workflow,
                source=source,
                provider=provider,
                model=model,
            )
        )

    async def scores(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        template: str | None = None,
        workflow: str | None = None,
        name: str | None = None,
        source: str | None = None,
    ) -> ScoresAnswer:
        """Get the mean scores of workflows, per version of their templates."""
        return await self._connection.send(
            scores_call(since=since, until=until, template=template, workflow=workflow, name=name, source=source)
        )
