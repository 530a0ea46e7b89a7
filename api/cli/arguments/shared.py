"""Options and arguments that several commands take."""

from datetime import UTC, datetime
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON; if the command fails, a problem document.")]
ExecutionId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The execution's id, its first characters, or `last` for the newest.", show_default=False
    ),
]
Since = Annotated[
    datetime | None,
    typer.Option("--from", metavar="TIME", help="From this time on, in UTC: 2026-01-31 or 2026-01-31T12:00:00."),
]
Until = Annotated[datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC.")]


def utc(time: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return None if time is None else time.replace(tzinfo=time.tzinfo or UTC)
