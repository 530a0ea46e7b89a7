"""`spanloom trace`, `cost`, `scores`, `reconcile` and `dead-letters`."""

from typing import Annotated

import typer

from api.cli.arguments.shared import ExecutionId, Json, Since, Until, utc


def trace(
    id: ExecutionId = "last",
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Wait until the execution has ended; exit 1 unless it completed."),
    ] = False,
    content: Annotated[
        bool,
        typer.Option("--content", help="Also show messages, tool calls and documents, with SPANLOOM_CONTENT=full."),
    ] = False,
    json: Json = False,
) -> None:
    """Show the span tree of an execution.

    Without an ID, shows the newest execution. Each span has its duration, tokens, cost and error; the last line tells
    whether all spans are stored.
    """
    from api.cli.commands.trace import follow_trace, show_trace

    show = follow_trace if follow else show_trace
    raise typer.Exit(show(id, with_content=content, as_json=json))


def cost(
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP",
            help="template (the default), template_version, workflow, source, provider, model, owner, day, outcome, "
            "error_type, node or tag:KEY. Repeatable.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Only this template, by key or id; a workflow without one by name."),
    ] = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Show the cost of executions, per template or other group.

    A workflow without a template is shown by its name. Amounts are exact to the nano-dollar; * marks those that calls
    are missing from. --from and --to are rounded down to the hour. By outcome, error_type, node or tag, the executions
    of the last 30 days are shown unless --from is given.
    """
    from api.cli.commands.cost import show_cost

    raise typer.Exit(show_cost(tuple(by or ["template"]), template, utc(since), utc(until), as_json=json))


def scores(
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only scores of this name, such as rating.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="Only this template, by its key or id.")
    ] = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Show mean scores, per workflow and version of its template.

    Labels are counted, each by itself. `spanloom executions score` gives a score.
    """
    from api.cli.commands.executions import show_scores

    raise typer.Exit(show_scores(name, template, utc(since), utc(until), as_json=json))


def reconcile(since: Since = None, until: Until = None, json: Json = False) -> None:
    """Compare spans, records, decisions, webhooks, roll-ups and Prometheus.

    Without --from, compares the last 24 hours. If they disagree, lists each difference with its likely cause and exits
    with 1. Repairs nothing.
    """
    from api.cli.commands.reconcile import compare

    raise typer.Exit(compare(utc(since), utc(until), as_json=json))


def dead_letters(
    replay: Annotated[
        bool, typer.Option("--replay", help="First try to store all of them again; exit 1 if some still fail.")
    ] = False,
    json: Json = False,
) -> None:
    """Show signals that could not be stored, and why.

    A running `spanloom serve` tries each of them again, six times within a day.
    """
    from api.cli.commands.dead_letters import list_or_replay

    raise typer.Exit(list_or_replay(replay=replay, as_json=json))
