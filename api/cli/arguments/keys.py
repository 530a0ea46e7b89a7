"""`spanloom keys` and its subcommands."""

from typing import Annotated

import typer

from api.cli.arguments.shared import Json
from api.cli.help import Command

app = typer.Typer(
    help="Create API keys, so that others can use the service.", rich_markup_mode=None, no_args_is_help=True
)


@app.command("create", cls=Command)
def create_key(
    owner: Annotated[
        str, typer.Option(metavar="NAME", help="Whose data it reads and writes: a person, a team, a customer.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What it is for, such as laptop.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="What it may do, such as executions:read. Repeatable. '*' is everything but metrics:read, ops and "
            "owners:all, which show more than one owner's data.",
        ),
    ],
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it ends: after 90d or 12h, or at 2027-06-30. Default: never."),
    ] = None,
    json: Json = False,
) -> None:
    """Create a key and print it.

    The key is shown only once. From then on every request to the service needs a key.
    """
    from api.cli.commands.owners.keys import AskedKey, create

    raise typer.Exit(create(AskedKey(owner, name, tuple(scope), expires), as_json=json))


@app.command("list", cls=Command)
def list_keys(
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only keys of this owner.")] = None,
    json: Json = False,
) -> None:
    """List keys, newest first, without their secrets."""
    from api.cli.commands.owners.keys import list_all

    raise typer.Exit(list_all(owner, as_json=json))


@app.command("revoke", cls=Command)
def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, as in `spanloom keys list`.")],
    json: Json = False,
) -> None:
    """Revoke a key.

    Every process refuses it within 5 seconds.
    """
    from api.cli.commands.owners.keys import revoke

    raise typer.Exit(revoke(id, as_json=json))
