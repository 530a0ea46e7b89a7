"""`spanloom executions` and its subcommands."""

from typing import Annotated

import typer

from api.cli.arguments.shared import ExecutionId, Json, Since, Until, utc
from api.cli.help import Command

app = typer.Typer(
    help="List executions, or show, cancel, resume, retry, score or forget one.",
    rich_markup_mode=None,
    invoke_without_command=True,
)

Statuses = Annotated[
    list[str] | None, typer.Option("--status", metavar="STATUS", help="Only this status, such as failed. Repeatable.")
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="TEMPLATE",
        help="Only of this template, by its key or id; a workflow without one by its name.",
    ),
]
ErrorTypes = Annotated[
    list[str] | None,
    typer.Option("--error-type", metavar="TYPE", help="Only this error type, such as timeout. Repeatable."),
]
Limit = Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="List at most this many executions.")]


@app.callback()
def executions(
    context: typer.Context,
    status: Statuses = None,
    template: Template = None,
    error_type: ErrorTypes = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Without a subcommand, list executions, newest first."""
    if context.invoked_subcommand is None:
        list_executions(status, template, error_type, since, until, limit, json)


@app.command("list", cls=Command)
def list_executions(
    status: Statuses = None,
    template: Template = None,
    error_type: ErrorTypes = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List executions, newest first, like `spanloom executions`."""
    from api.cli.commands.executions import Filters, list_all

    filters = Filters(tuple(status or ()), template, tuple(error_type or ()), utc(since), utc(until), limit)
    raise typer.Exit(list_all(filters, as_json=json))


@app.command(cls=Command)
def show(id: ExecutionId, json: Json = False) -> None:
    """Show an execution: its record, its input and answer, its scores, and its open questions."""
    from api.cli.commands.executions import show_one

    raise typer.Exit(show_one(id, as_json=json))


@app.command(cls=Command)
def cancel(
    id: ExecutionId,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Stored with the execution.")] = None,
    json: Json = False,
) -> None:
    """Cancel an execution.

    Waits up to 10 s for it to stop. A queued or paused execution ends at once.
    """
    from api.cli.commands.executions import cancel_one

    raise typer.Exit(cancel_one(id, reason, as_json=json))


@app.command(cls=Command)
def resume(
    id: ExecutionId,
    choice: Annotated[str, typer.Option(metavar="CHOICE", help="Your answer: one of the question's choices.")],
    approval: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The id of the approval, if the execution asks more than one question."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="Data for the answer, valid for the question's schema.")
    ] = None,
    json: Json = False,
) -> None:
    """Answer the question of a paused execution.

    `spanloom executions show ID` prints the question. The execution continues in a `spanloom serve` on this database.
    """
    from api.cli.commands.executions import resume_one

    raise typer.Exit(resume_one(id, choice, approval, data, as_json=json))


@app.command(cls=Command)
def retry(id: ExecutionId, json: Json = False) -> None:
    """Queue a finished execution again.

    Prints the id of the new execution, which has the same graph and input.
    """
    from api.cli.commands.executions import retry_one

    raise typer.Exit(retry_one(id, as_json=json))


@app.command(cls=Command)
def forget(id: ExecutionId, json: Json = False) -> None:
    """Delete what an ended execution was asked and answered.

    Its numbers stay. Trace stores keep what they have received. It cannot be retried afterwards.
    """
    from api.cli.commands.executions import forget_one

    raise typer.Exit(forget_one(id, as_json=json))


@app.command(cls=Command)
def score(
    id: ExecutionId,
    name: Annotated[str, typer.Option(metavar="NAME", help="What is judged, such as rating.")],
    value: Annotated[str, typer.Option(metavar="VALUE", help="A number, or a label such as correct.")],
    source: Annotated[str, typer.Option(metavar="SOURCE", help="Who judges: human, model or code.")] = "human",
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Kept as long as the answer.")] = None,
    json: Json = False,
) -> None:
    """Give an execution a score.

    It replaces the score of the same name and source.
    """
    from api.cli.commands.executions import give_score

    raise typer.Exit(give_score(id, name, value, source, comment, as_json=json))
