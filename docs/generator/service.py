"""The pages of settings, routes and commands."""

from typing import cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from api.cli.exit_codes import EXIT_CODES
from api.cli.main import app
from api.service.app import openapi_document
from api.setting_texts import setting_rows
from api.settings import Settings
from docs.generator.markdown import code, page, prose, table
from engine.graph import JsonObject


def settings_page() -> str:
    """Every environment variable with default and meaning; the same list as `.env.example`."""
    rows = [(code(name), code(default), meaning) for name, default, meaning in setting_rows()]
    assert len(rows) == len(Settings.model_fields)
    return page("Settings", _SETTINGS, table(("variable", "default", "meaning"), rows))


def routes_page() -> str:
    """Every route of the HTTP API."""
    document = openapi_document()
    sections = [
        _route(method, path, cast("JsonObject", operation))
        for path, operations in cast("JsonObject", document["paths"]).items()
        for method, operation in cast("JsonObject", operations).items()
    ]
    return page("HTTP routes", _ROUTES, *sections)


def commands_page() -> str:
    """Every command with its arguments, options and exit codes."""
    root = cast("TyperGroup", typer.main.get_command(app))
    codes = table(("exit code", "meaning"), [(code(number), meaning) for number, meaning in EXIT_CODES.items()])
    return page("Commands", _COMMANDS, *_commands("spanloom", root), "## Exit codes", codes)


def _route(method: str, path: str, operation: JsonObject) -> str:
    parameters = [
        (code(parameter["name"]), str(parameter["in"]), prose(str(parameter.get("description", ""))))
        for parameter in cast("list[JsonObject]", operation.get("parameters", []))
    ]
    answers = [
        (code(status), prose(str(cast("JsonObject", response).get("description", ""))))
        for status, response in cast("JsonObject", operation["responses"]).items()
    ]
    parts = (
        f"## {method.upper()} {path}",
        f"{operation.get('summary', '')}. {prose(str(operation.get('description', '')))}",
        table(("parameter", "in", "meaning"), parameters),
        table(("status", "meaning"), sorted(answers)),
    )
    return "\n\n".join(part for part in parts if part)


def _commands(name: str, command: TyperGroup | TyperCommand) -> list[str]:
    """The command and those below it."""
    parameters = cast("list[TyperArgument | TyperOption]", command.params)
    options = [_parameter(parameter) for parameter in parameters if not parameter.hidden]
    parts = (f"## {name}", prose(command.help), table(("argument or option", "default", "meaning"), options))
    below = cast("dict[str, TyperCommand]", command.commands) if isinstance(command, TyperGroup) else {}
    sections = [section for child, inner in below.items() for section in _commands(f"{name} {child}", inner)]
    return ["\n\n".join(part for part in parts if part), *sections]


def _parameter(parameter: TyperArgument | TyperOption) -> tuple[str, str, str]:
    label = metavar = parameter.metavar or parameter.name.upper()
    if isinstance(parameter, TyperOption):
        label = ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {metavar}")
    default = "" if parameter.default in (None, False, ()) else str(parameter.default)
    return code(label), code(default), prose(parameter.help)


_SETTINGS = """All settings are environment variables. `spanloom doctor` shows what is in force. An unknown variable
that begins with `SPANLOOM_` stops the process at its start. The `OTEL_*` variables mean what OpenTelemetry says."""

_ROUTES = """Errors are problem documents (`application/problem+json`) with a stable `type`. The machine-readable
form of this page is `/openapi.json`, and `docs/openapi.json` in the repository."""

_COMMANDS = "Each command prints its answer on stdout and what happens meanwhile on stderr."
