"""`spanloom webhooks` and its subcommands."""

from typing import Annotated

import typer

from api.cli.arguments.shared import Json, Since, Until, utc
from api.cli.help import Command

app = typer.Typer(
    help="Send signed events to other services, and see what was sent.", rich_markup_mode=None, no_args_is_help=True
)

EndpointId = Annotated[str, typer.Argument(metavar="ID", help="The endpoint's id, or its first characters.")]


@app.command("list", cls=Command)
def list_endpoints(json: Json = False) -> None:
    """List endpoints, newest first."""
    from api.cli.commands.webhooks import list_all

    raise typer.Exit(list_all(as_json=json))


@app.command("add", cls=Command)
def add_endpoint(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="An https URL; SPANLOOM_EGRESS_ALLOW permits other addresses."),
    ],
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT",
            help="An event to send, such as workflow.execution.failed. Repeatable. Default: completed, failed and "
            "cancelled executions.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="TEMPLATE", help="Only executions of this template, by its key or id. Repeatable."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A header to send: X-… or Authorization. Repeatable."),
    ] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Stored with the endpoint.")] = None,
    json: Json = False,
) -> None:
    """Add an endpoint and print its signing secret.

    The secret is shown only once.
    """
    from api.cli.commands.webhooks import NewEndpoint, add

    given = NewEndpoint(url, tuple(event or ()), tuple(template or ()), tuple(header or ()), description)
    raise typer.Exit(add(given, as_json=json))


@app.command("test", cls=Command)
def send_test(id: EndpointId, json: Json = False) -> None:
    """Send a test event to an endpoint and print the response.

    The event is `webhook.test`. Exits with 1 if it was not delivered.
    """
    from api.cli.commands.webhooks import test

    raise typer.Exit(test(id, as_json=json))


@app.command("rotate", cls=Command)
def rotate_secret(
    id: EndpointId,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=168, metavar="HOURS", help="How long to sign with the old secret as well.")
    ] = 24,
    json: Json = False,
) -> None:
    """Replace the signing secret of an endpoint and print the new one.

    The new secret is shown only once.
    """
    from api.cli.commands.webhooks import rotate

    raise typer.Exit(rotate(id, overlap_hours, as_json=json))


@app.command("disable", cls=Command)
def disable_endpoint(id: EndpointId, json: Json = False) -> None:
    """Disable an endpoint. Its pending deliveries fail."""
    from api.cli.commands.webhooks import set_status

    raise typer.Exit(set_status(id, "disabled", as_json=json))


@app.command("enable", cls=Command)
def enable_endpoint(id: EndpointId, json: Json = False) -> None:
    """Enable an endpoint again, for events from now on."""
    from api.cli.commands.webhooks import set_status

    raise typer.Exit(set_status(id, "active", as_json=json))


@app.command("deliveries", cls=Command)
def list_deliveries(
    endpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="Only deliveries to this endpoint, by its full id.")
    ] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="pending, delivered or failed.")] = None,
    event: Annotated[
        str | None, typer.Option(metavar="EVENT", help="Only this event, such as workflow.execution.failed.")
    ] = None,
    execution: Annotated[
        str | None, typer.Option(metavar="ID", help="Only deliveries about this execution, by its full id.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="List at most this many deliveries.")] = 20,
    json: Json = False,
) -> None:
    """List deliveries, newest first."""
    from api.cli.commands.webhooks import DeliveryFilters, list_deliveries

    filters = DeliveryFilters(endpoint, state, event, execution, utc(since), utc(until))
    raise typer.Exit(list_deliveries(filters, limit, as_json=json))


@app.command("redeliver", cls=Command)
def redeliver(
    id: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id; with --from and --to, an endpoint's id.")],
    since: Since = None,
    until: Until = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --from and --to: send successful deliveries again, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Send a delivery again, or all that an endpoint missed.

    With --from and --to, sends the failed deliveries of an endpoint in that period. Ids and bodies stay the same.
    """
    from api.cli.commands.webhooks import redeliver

    raise typer.Exit(redeliver(id, utc(since), utc(until), everything=everything, as_json=json))
