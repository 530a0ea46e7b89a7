"""`spanloom run` and `spanloom validate`."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.arguments.shared import Json


def run(
    workflow: Annotated[
        str,
        typer.Argument(metavar="WORKFLOW", help="The key of a template, or a .json file with a graph or a template."),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter of the template. Repeatable."),
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", metavar="JSON", help="The input: a JSON object, or @FILE with one.")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Short for --input '{\"message\": TEXT}'.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help="The user for whom it runs. Traces show a hash of the id."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer, questions and errors only.")] = False,
    is_async: Annotated[
        bool,
        typer.Option("--async", help="Queue the execution for a `spanloom serve` on this database and print its id."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; if the command fails, a problem document.")
    ] = False,
) -> None:
    """Run a workflow and print its answer.

    The answer is streamed to stdout, progress to stderr. The first Ctrl-C cancels the execution and waits for it; the
    second exits at once. If the workflow pauses for an approval, its question is printed and the exit code is 1.
    A template in a file runs under its key, marked as unsaved.

    Example: spanloom run document_qa --param path=./docs -m 'How do I start?'
    """
    from api.cli.commands.run import queue_workflow, run_workflow

    if is_async:
        raise typer.Exit(queue_workflow(workflow, param or [], input, message, user, as_json=json))
    raise typer.Exit(run_workflow(workflow, param or [], input, message, user, quiet=quiet, as_json=json))


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="JSON files with workflow graphs or templates.")],
    json: Json = False,
) -> None:
    """Check workflow files without running them. Needs no database."""
    from api.cli.commands.validate import validate_files

    raise typer.Exit(validate_files(files, as_json=json))
