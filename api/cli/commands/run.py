"""`spanloom run`: run one workflow and print its answer, or queue it."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from api.cli import interrupts, terminal
from api.cli.commands.executions import Detailed, read_queued, show_queued
from api.cli.commands.validate import reports_of
from api.cli.errors import wrong_use
from api.cli.exit_codes import BAD_NEWS, DONE, INTERRUPTED
from api.cli.live_run import CALLER, Followed, follow, problem, summary
from api.cli.rendering.tables import question_view, validation_view
from api.cli.workflow_files import is_template, read_document
from api.settings import Settings
from api.wiring.runtime import Runtime, open_runtime
from engine.documents.strict_json import MalformedJson, read_json
from engine.errors import NotFound
from engine.graph import Json, JsonObject
from engine.request import ExecutionRequest
from engine.resources import Template
from engine.result import Status
from engine.templates.resolve import resolve
from engine.templates.template import TemplateDocument, load_builtin, template_of


def run_workflow(
    workflow: str,
    params: Sequence[str],
    input_text: str | None,
    message: str | None,
    user: str | None = None,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a workflow and show it. The exit code tells how it ended."""
    settings = terminal.begin()
    input = _input(input_text, message)
    pairs = _pairs(params)
    given = _workflow_file(settings, workflow, pairs)

    async def run() -> Followed:
        async with open_runtime(settings, patience=terminal.patience()) as runtime:
            request = await _build_request(runtime, workflow, given, pairs, input, user)
            if not quiet:
                _say_offline(runtime)
            return await follow(runtime, request, quiet=quiet, prints_answer=not as_json)

    followed = interrupts.run(run())
    if as_json:
        terminal.show_json(followed.result.model_dump(mode="json"))
    _print_end(followed, quiet=quiet)
    return _exit_code(followed)


def queue_workflow(
    workflow: str,
    params: Sequence[str],
    input_text: str | None,
    message: str | None,
    user: str | None = None,
    *,
    as_json: bool,
) -> int:
    """Queue an execution for a service on the same database, and print its id."""
    settings = terminal.begin()
    input = _input(input_text, message)
    pairs = _pairs(params)
    given = _workflow_file(settings, workflow, pairs)

    async def queue() -> Detailed:
        async with open_runtime(settings) as runtime:
            request = await _build_request(runtime, workflow, given, pairs, input, user, mode="async")
            execution_id = await runtime.engine.enqueue(request, CALLER)
            return await read_queued(runtime.database, execution_id)

    return show_queued(settings, interrupts.run(queue()), as_json=as_json)


async def _build_request(
    runtime: Runtime,
    workflow: str,
    given: JsonObject | None,
    pairs: dict[str, str],
    input: JsonObject,
    user: str | None,
    *,
    mode: str = "wait",
) -> ExecutionRequest:
    source = given if given is not None else await _template(runtime, workflow, pairs)
    return _request({"source": source, "input": input, "mode": mode, "user": user})


def _say_offline(runtime: Runtime) -> None:
    demo = runtime.demo_notice
    if demo is not None:
        terminal.console(stderr=True).print(f"spanloom: {demo}", style="dim", soft_wrap=True)


def _print_end(followed: Followed, *, quiet: bool) -> None:
    console = terminal.console(stderr=True)
    sentence = problem(followed.result)
    if sentence is not None:
        console.print(sentence, soft_wrap=True)
    for question in followed.result.approvals:
        console.print(question_view(followed.result.execution_id, question), soft_wrap=True)
    if not quiet:
        console.print(summary(followed), soft_wrap=True)


def _exit_code(followed: Followed) -> int:
    if followed.was_interrupted and followed.result.status is Status.CANCELLED:
        return INTERRUPTED
    return DONE if followed.result.status is Status.COMPLETED else BAD_NEWS


def _request(document: JsonObject) -> ExecutionRequest:
    try:
        return ExecutionRequest.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        wrong_use(f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}")


def _input(text: str | None, message: str | None) -> JsonObject:
    """The input from `--input` and `--message`. Raises `WrongUse`."""
    document: Json = {}
    if text is not None and text.startswith("@"):
        document = read_document(Path(text[1:]))
    elif text is not None:
        try:
            document = read_json(text.encode("utf-8", "surrogatepass"))
        except MalformedJson as error:
            wrong_use(f"""Cannot read --input. {error} Write --input '{{"message": "hi"}}', or use -m 'hi'.""")
    if not isinstance(document, dict):
        wrong_use("""--input is not a JSON object. Write it as in --input '{"message": "hi"}', or use -m 'hi'.""")
    return document if message is None else {**document, "message": message}


def _pairs(params: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for param in params:
        name, separator, value = param.partition("=")
        if not (name and separator):
            wrong_use(f"Cannot read --param {param!r}. Write it as NAME=VALUE.")
        pairs[name] = value
    return pairs


def _workflow_file(settings: Settings, workflow: str, pairs: dict[str, str]) -> JsonObject | None:
    """The source for the graph or template in a file; null if the argument is the key of a stored template."""
    file = Path(workflow)
    if file.suffix != ".json":
        return None
    document = read_document(file)
    if not isinstance(document, dict):
        wrong_use(f"{workflow} is not a workflow graph: it is not a JSON object.")
    if is_template(document):
        return _unsaved_template(settings, workflow, document, pairs)
    if pairs:
        wrong_use("--param is for templates. A graph in a file gets its values from --input.")
    return {"kind": "graph", "graph": document}


def _unsaved_template(settings: Settings, name: str, document: JsonObject, pairs: dict[str, str]) -> JsonObject:
    """The source for a template that is not stored. Raises `WrongUse`, or `InvalidParams`."""
    report = reports_of(settings, [document])[0]
    if not report.valid:
        terminal.console(stderr=True).print(validation_view(name, report), end="")
        wrong_use(f"{name} is not a valid template.")
    parsed = TemplateDocument.model_validate(document)
    template = template_of(parsed, template_id=parsed.key)
    params = _params(template, pairs)
    made_from: JsonObject = {"key": template.key, "params": params}
    return {"kind": "graph", "graph": resolve(template, params), "template": made_from}


async def _template(runtime: Runtime, key: str, pairs: dict[str, str]) -> JsonObject:
    """The source for a template, with parameters of the types in its schema. Raises `NotFound`."""
    template = await runtime.resources.templates.find(key, None, CALLER.owner)
    if template is None:
        known = [each.key for each in load_builtin()]
        near = get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NotFound(
            f"There is no template {key!r}.{hint} Templates: {', '.join(known)}. To run a graph, name a .json file."
        )
    return {"kind": "template", "template": key, "params": _params(template, pairs)}


def _params(template: Template, pairs: dict[str, str]) -> JsonObject:
    return {name: _value(text, _types(template, name)) for name, text in pairs.items()}


def _types(template: Template, name: str) -> frozenset[str]:
    """The JSON types of a parameter; empty if it is unknown or of any type."""
    properties = template.parameters.get("properties")
    schema = properties.get(name) if isinstance(properties, dict) else None
    types = schema.get("type") if isinstance(schema, dict) else None
    return (
        frozenset(str(each) for each in types) if isinstance(types, list) else frozenset({str(types)} if types else ())
    )


def _value(text: str, types: frozenset[str]) -> Json:
    """The value as JSON if the parameter is not a string and the text is JSON; else the text."""
    if "string" in types and not (text == "null" and "null" in types):
        return text
    try:
        return read_json(text.encode("utf-8", "surrogatepass"))
    except MalformedJson:
        return text
