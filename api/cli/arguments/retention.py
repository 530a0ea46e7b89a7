"""`spanloom retention` and its subcommands."""

from typing import Annotated

import typer

from api.cli.arguments.shared import Json
from api.cli.help import Command

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
)

Owner = Annotated[str, typer.Option("--owner", metavar="OWNER", help="Only executions of this owner.")]
Template = Annotated[
    str, typer.Option("--template", metavar="TEMPLATE", help="Only executions of this template, by its key or id.")
]

_CONTENT = "Keep input and answer for this long, and never less than SPANLOOM_IDEMPOTENCY_HOURS."


def _days(name: str, meaning: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--{name}-days", metavar="DAYS", help=meaning)
    return option


@app.callback()
def retention(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    json: Json = False,
) -> None:
    """Delete what is due, and show how much that was.

    A running `spanloom serve` does the same every ten minutes. SPANLOOM_CONTENT_DAYS, SPANLOOM_SPANS_DAYS and
    SPANLOOM_RECORDS_DAYS say what is due, and the rules of `spanloom retention set`.
    """
    if context.invoked_subcommand is None:
        from api.cli.commands.retention import delete_due

        raise typer.Exit(delete_due(dry_run=dry_run, as_json=json))
    if dry_run:
        from api.cli.errors import wrong_use

        wrong_use("--dry-run shows what would be deleted; `spanloom retention set` and the like have none.")


@app.command(cls=Command)
def rules(json: Json = False) -> None:
    """List the rules of owners and templates."""
    from api.cli.commands.retention import list_rules

    raise typer.Exit(list_rules(as_json=json))


@app.command("set", cls=Command)
def set_(
    owner: Owner = "",
    template: Template = "",
    content_days: Annotated[
        float | None,
        _days("content", _CONTENT),
    ] = None,
    spans_days: Annotated[float | None, _days("spans", "Keep spans for this long.")] = None,
    records_days: Annotated[float | None, _days("records", "Keep records for this long.")] = None,
    json: Json = False,
) -> None:
    """Keep the executions of an owner, of a template, or of both for another time than the settings say.

    Replaces the rule of the same owner and template. A rule of an owner precedes one of a template.
    """
    from api.cli.commands.retention import set_one

    raise typer.Exit(set_one(owner, template, content_days, spans_days, records_days, as_json=json))


@app.command(cls=Command)
def unset(owner: Owner = "", template: Template = "", json: Json = False) -> None:
    """Delete the rule of an owner, of a template, or of both."""
    from api.cli.commands.retention import unset_one

    raise typer.Exit(unset_one(owner, template, as_json=json))
