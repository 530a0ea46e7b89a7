"""`spanloom validate`: check workflow files without a database."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pydantic import ValidationError

from api.cli import terminal
from api.cli.exit_codes import BAD_NEWS, DONE
from api.cli.rendering.tables import validation_view
from api.cli.workflow_files import is_template, read_document
from api.settings import Settings
from api.wiring.resources import build_prices
from engine.execution.local_resources import resources_of
from engine.graph import Json
from engine.report import ValidationReport
from engine.resources import Resources
from engine.templates.template import TemplateDocument, template_of
from engine.validation.pydantic_findings import findings_of
from engine.validation.rules import report_of
from engine.validation.template import validate_template
from engine.validation.validator import WorkflowValidator

OWNER = "default"


def validate_files(files: list[Path], *, as_json: bool) -> int:
    """Print a report per file; 1 if a file is not valid."""
    settings = terminal.begin()
    documents = [(str(file), read_document(file)) for file in files]
    found = reports_of(settings, [document for _, document in documents])
    reports = [(name, report) for (name, _), report in zip(documents, found, strict=True)]
    if as_json:
        items = [{"file": name, "report": report.model_dump(mode="json")} for name, report in reports]
        terminal.show_json({"items": items})
    else:
        console = terminal.console()
        for name, report in reports:
            console.print(validation_view(name, report), end="")
    return DONE if all(report.valid for _, report in reports) else BAD_NEWS


def reports_of(settings: Settings, documents: Sequence[Json]) -> list[ValidationReport]:
    """The report of each graph or template, with the models and tools of these settings."""
    resources = resources_of(
        settings.providers, settings.model, files_roots=settings.files_roots, prices=build_prices(settings)
    )
    with closing(resources.files):
        return [_report(document, resources) for document in documents]


def _report(document: Json, resources: Resources) -> ValidationReport:
    validator = WorkflowValidator()
    if not is_template(document):
        return validator.validate(document, owner=OWNER, resources=resources).report
    try:
        parsed = TemplateDocument.model_validate(document)
    except ValidationError as error:
        return report_of(findings_of(error, document, TemplateDocument))
    template = template_of(parsed, template_id=parsed.key)
    return validate_template(template, validator=validator, owner=OWNER, resources=resources)
