"""The command line `spanloom`. Each command imports what it needs when it runs, so that `--help` answers at once."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import SpanloomError

INTERNAL = 70

app = typer.Typer(
    name="spanloom",
    help="Run LLM workflows and read their books: every execution is one trace, one record, one cost.",
    epilog="Begin with: spanloom demo --once",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
executions_app = typer.Typer(
    help="List executions, newest first; show, cancel, resume or retry one.",
    rich_markup_mode=None,
    invoke_without_command=True,
)
app.add_typer(executions_app, name="executions")
webhooks_app = typer.Typer(
    help="Tell other services of what happens, signed; see what was sent.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(webhooks_app, name="webhooks")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EndpointId = Annotated[str, typer.Argument(metavar="ID", help="An endpoint's id, or a beginning of one.")]
ExecutionId = Annotated[str, typer.Argument(metavar="ID", help="An id, a beginning of one, or `last`.")]


def main() -> None:
    """Run a command. Whatever goes wrong is one sentence on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # nobody has replaced them yet
    try:
        app()
    except SpanloomError as error:
        from api.cli.errors import say

        sys.exit(say(error))
    except Exception as error:
        from api.cli.errors import say_unexpected

        say_unexpected(error)
        sys.exit(INTERNAL)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"spanloom {version('spanloom')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End when everything was shown.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to serve on; the next free one if taken.")] = 8000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's database where it is.")] = False,
) -> None:
    """See it work: no key, no network, nothing left behind.

    Answers a question about spanloom's own documents, runs an agent with tools and an execution that fails on
    purpose, and shows their traces and cost. Then it stays up and serves what it made, until Ctrl-C.
    """
    from api.cli.commands.demo import run_demo

    raise typer.Exit(run_demo(once=once, port=port, keep=keep))


@app.command()
def serve(
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE,…",
            help="What this process does: api, worker, keeper, and with SPANLOOM_PIPELINE=collector ingest. All, if "
            "not given.",
        ),
    ] = None,
) -> None:
    """Serve the HTTP API.

    On 127.0.0.1:8000, unless SPANLOOM_BIND or PORT says otherwise; the first Ctrl-C lets executions end. Beside it
    the worker runs what was queued, the keeper compares the books and sends webhooks, and the Collector is listened
    to where signals go through it.
    """
    from api.cli.commands.serve import run_service

    raise typer.Exit(run_service(role))


@app.command()
def run(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="A template's key, or a graph in a .json file.")],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter of the template; repeat for more."),
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON", help="The input, as a JSON object or @file.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Short for --input '{\"message\": TEXT}'.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the answer and errors.")] = False,
    is_async: Annotated[
        bool, typer.Option("--async", help="Leave it to `spanloom serve` over the same database, and print its id.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of the answer.")] = False,
) -> None:
    """Run a workflow, watch it, and get its answer.

    The answer goes to stdout as it comes, what happens to stderr. The first Ctrl-C cancels, the second leaves.

    spanloom run document_qa --param path=./docs -m 'How do I start?'
    """
    from api.cli.commands.run import queue_workflow, run_workflow

    if is_async:
        raise typer.Exit(queue_workflow(workflow, param or [], input, message, as_json=json))
    raise typer.Exit(run_workflow(workflow, param or [], input, message, quiet=quiet, as_json=json))


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Workflow graphs or templates as JSON.")],
    json: Json = False,
) -> None:
    """Check workflow files; needs no database."""
    from api.cli.commands.validate import validate_files

    raise typer.Exit(validate_files(files, as_json=json))


@executions_app.callback()
def executions(
    context: typer.Context,
    status: Annotated[
        list[str] | None, typer.Option(help="running, completed, failed, cancelled, …; repeat for more.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Key or id of the template.")] = None,
    error_type: Annotated[list[str] | None, typer.Option(help="As in `timeout`; repeat for more.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", metavar="TIME", help="Not before, in UTC: 2026-01-31 or …T12:00:00.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most executions to list.")] = 20,
    json: Json = False,
) -> None:
    """List executions, newest first; show, cancel, resume or retry one."""
    if context.invoked_subcommand is not None:
        return
    from api.cli.commands.executions import Filters, list_all

    filters = Filters(tuple(status or ()), template, tuple(error_type or ()), _utc(since), _utc(until), limit)
    raise typer.Exit(list_all(filters, as_json=json))


@executions_app.command()
def show(id: ExecutionId, json: Json = False) -> None:
    """Show the record of one execution."""
    from api.cli.commands.executions import show_one

    raise typer.Exit(show_one(id, as_json=json))


@executions_app.command()
def cancel(
    id: ExecutionId,
    reason: Annotated[str | None, typer.Option(help="Kept with the execution.")] = None,
    json: Json = False,
) -> None:
    """Ask an execution to stop, and wait a little for it; one that is queued or paused ends at once."""
    from api.cli.commands.executions import cancel_one

    raise typer.Exit(cancel_one(id, reason, as_json=json))


@executions_app.command()
def resume(
    id: ExecutionId,
    choice: Annotated[str, typer.Option(help="One of the choices.")],
    approval: Annotated[
        str | None, typer.Option(metavar="ID", help="Which question, where it asks more than one.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="What belongs to the answer.")] = None,
    json: Json = False,
) -> None:
    """Answer what a paused execution asks; `show` tells what that is."""
    from api.cli.commands.executions import resume_one

    raise typer.Exit(resume_one(id, choice, approval, data, as_json=json))


@executions_app.command()
def retry(id: ExecutionId, json: Json = False) -> None:
    """Queue a finished execution anew, with the same graph and input, and print the new id."""
    from api.cli.commands.executions import retry_one

    raise typer.Exit(retry_one(id, as_json=json))


@app.command()
def trace(
    id: ExecutionId = "last",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it has ended; exit 1 if badly.")] = False,
    json: Json = False,
) -> None:
    """Show the span tree of an execution.

    With time, tokens, cost, errors, and whether all spans are here. Without an id, of the last one.
    """
    from api.cli.commands.trace import follow_trace, show_trace

    raise typer.Exit(follow_trace(id, as_json=json) if follow else show_trace(id, as_json=json))


@app.command()
def cost(
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="template, template_version, workflow, source, provider, model, owner, day; repeat for more."
        ),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Only this template, by key or id.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", metavar="TIME", help="Not before, in UTC, to the hour.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC, to the hour.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what executions cost, per template.

    Exact to the nano-dollar, with failures and tokens; --by groups otherwise.
    """
    from api.cli.commands.cost import show_cost

    raise typer.Exit(show_cost(tuple(by or ["template"]), template, _utc(since), _utc(until), as_json=json))


@app.command()
def reconcile(
    since: Annotated[
        datetime | None, typer.Option("--from", metavar="TIME", help="Not before, in UTC; a day ago if not given.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC.")] = None,
    json: Json = False,
) -> None:
    """Compare the books: spans, records, roll-ups, Prometheus. Exit 1 and the ids if they disagree; repairs nothing."""
    from api.cli.commands.reconcile import compare

    raise typer.Exit(compare(_utc(since), _utc(until), as_json=json))


@app.command("dead-letters")
def dead_letters(
    replay: Annotated[bool, typer.Option("--replay", help="First try them all again, now.")] = False,
    json: Json = False,
) -> None:
    """Show signals that could not be stored, and why; a service tries them six times in a day. --replay exits 1 if some
    stay.
    """
    from api.cli.commands.dead_letters import list_or_replay

    raise typer.Exit(list_or_replay(replay=replay, as_json=json))


@webhooks_app.command("list")
def webhooks_list(json: Json = False) -> None:
    """List endpoints, newest first."""
    from api.cli.commands.webhooks import list_all

    raise typer.Exit(list_all(as_json=json))


@webhooks_app.command("add")
def webhooks_add(
    url: Annotated[str, typer.Argument(metavar="URL", help="https; own places by SPANLOOM_EGRESS_ALLOW.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="As in workflow.execution.failed; repeat for more. The ends of executions, if not given."),
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Only executions of this template, by key or id; repeat for more.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Sent along: X-… or Authorization; repeat for more.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Kept with the endpoint.")] = None,
    json: Json = False,
) -> None:
    """Add an endpoint and show its secret, this once."""
    from api.cli.commands.webhooks import NewEndpoint, add

    given = NewEndpoint(url, tuple(event or ()), tuple(template or ()), tuple(header or ()), description)
    raise typer.Exit(add(given, as_json=json))


@webhooks_app.command("test")
def webhooks_test(id: EndpointId, json: Json = False) -> None:
    """Send `webhook.test` now and tell what came of it; exit 1 if it was not taken."""
    from api.cli.commands.webhooks import test

    raise typer.Exit(test(id, as_json=json))


@webhooks_app.command("rotate")
def webhooks_rotate(
    id: EndpointId,
    overlap_hours: Annotated[int, typer.Option(min=0, max=168, help="How long the old secret signs too.")] = 24,
    json: Json = False,
) -> None:
    """Give an endpoint a new secret and show it, this once."""
    from api.cli.commands.webhooks import rotate

    raise typer.Exit(rotate(id, overlap_hours, as_json=json))


@webhooks_app.command("disable")
def webhooks_disable(id: EndpointId, json: Json = False) -> None:
    """Send an endpoint nothing; what is open fails."""
    from api.cli.commands.webhooks import set_status

    raise typer.Exit(set_status(id, "disabled", as_json=json))


@webhooks_app.command("enable")
def webhooks_enable(id: EndpointId, json: Json = False) -> None:
    """Send an endpoint what happens from now on."""
    from api.cli.commands.webhooks import set_status

    raise typer.Exit(set_status(id, "active", as_json=json))


@webhooks_app.command("deliveries")
def webhooks_deliveries(
    endpoint: Annotated[str | None, typer.Option(help="Only those to this endpoint, by its whole id.")] = None,
    state: Annotated[str | None, typer.Option(help="pending, delivered or failed.")] = None,
    event: Annotated[str | None, typer.Option(help="As in workflow.execution.failed.")] = None,
    execution: Annotated[str | None, typer.Option(help="Only those about this execution, by its whole id.")] = None,
    since: Annotated[datetime | None, typer.Option("--from", metavar="TIME", help="Not before, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most deliveries to list.")] = 20,
    json: Json = False,
) -> None:
    """List deliveries, newest first."""
    from api.cli.commands.webhooks import Wanted, list_deliveries

    wanted = Wanted(endpoint, state, event, execution, _utc(since), _utc(until))
    raise typer.Exit(list_deliveries(wanted, limit, as_json=json))


@webhooks_app.command("redeliver")
def webhooks_redeliver(
    id: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id; with --from and --to an endpoint's.")],
    since: Annotated[datetime | None, typer.Option("--from", metavar="TIME", help="Not before, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", metavar="TIME", help="Before this time, in UTC.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what arrived, not only what failed.")] = False,
    json: Json = False,
) -> None:
    """Send again, with the same id and bytes: one delivery, or what an endpoint missed in a time."""
    from api.cli.commands.webhooks import redeliver

    raise typer.Exit(redeliver(id, _utc(since), _utc(until), everything=everything, as_json=json))


@app.command()
def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if the schema is another one.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL for an empty database instead.")] = False,
    json: Json = False,
) -> None:
    """Bring the database to the schema of this program."""
    from api.cli.commands.migrate import run_migration

    raise typer.Exit(run_migration(check=check, sql=sql, as_json=json))


@app.command()
def doctor(json: Json = False) -> None:
    """Check settings, database and providers.

    Each finding with what to do about it; exit 3 if executions could not run.
    """
    from api.cli.commands.doctor import examine

    raise typer.Exit(examine(as_json=json))


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=time.tzinfo or UTC)
