"""`spanloom demo`, `serve`, `migrate` and `doctor`."""

from typing import Annotated

import typer

from api.cli.arguments.shared import Json


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the demo instead of serving it.")] = False,
    port: Annotated[
        int,
        typer.Option(min=1, max=65_535, metavar="PORT", help="Port to serve on; if it is taken, the next free one."),
    ] = 8000,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's database on exit.")] = False,
) -> None:
    """Try spanloom without a key, a network or a database.

    Runs an offline model: one question about spanloom's own documents, two agents with tools, and one execution that
    fails on purpose. Shows a trace and the costs, then serves the HTTP API over these executions until Ctrl-C.
    """
    from api.cli.commands.demo import run_demo

    raise typer.Exit(run_demo(once=once, port=port, keep=keep))


def serve(
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            metavar="ROLE,…",
            help="Run these roles only: api, worker, keeper, and with SPANLOOM_PIPELINE=collector ingest. "
            "Default: all of them.",
        ),
    ] = None,
) -> None:
    """Serve the HTTP API and run queued executions.

    Listens on 127.0.0.1:8000, or on SPANLOOM_BIND or PORT. The worker runs queued executions; the keeper sends
    webhooks, recovers lost executions and reconciles the books; ingest receives signals from the Collector. The first
    Ctrl-C lets running executions finish.
    """
    from api.cli.commands.serve import run_service

    raise typer.Exit(run_service(role))


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only check; exit 1 if the schema is not up to date.")] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that creates the schema, or that --to runs, and exit.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="REVISION", help="Go to this revision, forwards or back; `base` is the empty database."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the data that going back loses, without asking.")] = False,
    json: Json = False,
) -> None:
    """Upgrade the database schema to this version of spanloom.

    With --to it goes to another revision, for example before an older version is installed. Stop all processes first.
    """
    from api.cli.commands.migrate import move_to, run_migration
    from api.cli.errors import wrong_use

    if to is not None:
        if check:
            wrong_use("--check and --to cannot be combined.")
        raise typer.Exit(move_to(to, yes=yes, sql=sql, as_json=json))
    raise typer.Exit(run_migration(check=check, sql=sql, as_json=json))


def doctor(json: Json = False) -> None:
    """Check settings, database, models and exporters.

    Prints advice with each problem. Exits with 1 if a model cannot be called or priced as the settings say, with 3 if
    executions could not run at all.
    """
    from api.cli.commands.doctor import examine

    raise typer.Exit(examine(as_json=json))
