"""`spanloom prices`: check a file of own prices, and show the price of a model."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from api.cli.arguments.shared import Json, utc
from api.cli.help import Command, Group

app = typer.Typer(cls=Group, help="Check your own prices, and look prices up.", no_args_is_help=True)


@app.command(cls=Command)
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The file. Default: the one that SPANLOOM_PRICES names."),
    ] = None,
    json: Json = False,
) -> None:
    """Check a file of own prices.

    Lists its entries, or everything that is wrong with it; exits with 1 if the file cannot be used.
    """
    from api.cli.commands.prices import check_prices

    raise typer.Exit(check_prices(file, as_json=json))


@app.command(cls=Command)
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="provider:model, or a model of a provider that is known.", show_default=False
        ),
    ],
    at: Annotated[
        datetime | None,
        typer.Option("--at", metavar="TIME", help="At this time, in UTC: 2026-01-31 or 2026-01-31T12:00:00."),
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", metavar="TIER", help="Service tier: flex, priority, batch.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Host of the server. Default: the configured one.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the price of a model, as calls are booked.

    Says where the price comes from and how long it is in force; exits with 1 if there is none.
    """
    from api.cli.commands.prices import show_price

    raise typer.Exit(show_price(model, utc(at), tier, host, as_json=json))
