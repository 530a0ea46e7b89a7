"""The command `spanloom`. Each command imports its code when it runs, so that `--help` answers at once."""

import sys
from typing import Annotated

import typer

from api.cli.arguments import executions, keys, prices, records, retention, service, webhooks, workflows
from api.cli.exit_codes import DONE
from api.cli.help import EPILOG, Command, Group
from api.cli.interrupts import leaving
from api.cli.streams import guard_streams

PROGRAM = "spanloom"
"""The name in help texts and completions, also under `python -m spanloom`."""

app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    help="Run LLM workflows and account for them: each execution has one trace, one record and one cost.",
    epilog=EPILOG,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(executions.app, name="executions")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(prices.app, name="prices")
app.add_typer(retention.app, name="retention")
for command in (
    workflows.run,
    workflows.validate,
    service.demo,
    service.serve,
    service.migrate,
    service.doctor,
    records.trace,
    records.cost,
    records.scores,
    records.reconcile,
    records.dead_letters,
):
    app.command(command.__name__.replace("_", "-"), cls=Command)(command)


def main() -> None:
    """Run the command of `sys.argv` and exit with its code. An error is one sentence or one problem document."""
    guard_streams()
    arguments = sys.argv[1:]
    with leaving():
        try:
            code = app(arguments, prog_name=PROGRAM, standalone_mode=False)
        except Exception as error:
            from api.cli.errors import report, wants_json

            code = report(error, as_json=wants_json(typer.main.get_command(app), arguments))
    sys.exit(code if isinstance(code, int) else DONE)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"{PROGRAM} {version('spanloom')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
