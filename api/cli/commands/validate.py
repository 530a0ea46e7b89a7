"""`spanloom validate`: a report per workflow file, without a database."""

from contextlib import closing
from pathlib import Path

from pydantic import ValidationError

from api.cli import terminal
from api.cli.errors import BAD_NEWS, DONE
from api.cli.rendering.tables import validation_view
from api.cli.workflow_files import is_template, read_document
from api.settings import Settings
from engine.execution.defaults import BuiltinTemplates, NoConversations, NoDefinitions
from engine.graph import Json
from engine.models.pricing import GenaiPrices
from engine.models.registry import LangChainModels
from engine.report import ValidationReport
from engine.resources import Resources, Template
from engine.retrieval.files import FilesRetriever
from engine.retrieval.folders import ConfiguredFolders
from engine.templates.template import TemplateDocument
from engine.tools.builtin import builtin_tools
from engine.validation.pydantic_findings import findings_of
from engine.validation.rules import report_of
from engine.validation.template import validate_template
from engine.validation.validator import WorkflowValidator

OWNER = "default"


def validate_files(files: list[Path], *, as_json: bool) -> int:
    """A report for each file; 1 if one is not valid."""
    settings = terminal.begin()
    documents = [(str(file), read_document(file)) for file in files]
    with closing(FilesRetriever(settings.files_roots)) as retriever:
        resources = _resources(settings, retriever)
        reports = [(name, _report(document, resources)) for name, document in documents]
    if as_json:
        items = [{"file": name, "report": report.model_dump(mode="json")} for name, report in reports]
        terminal.show_json({"items": items})
    else:
        console = terminal.console()
        for name, report in reports:
            console.print(validation_view(name, report), end="")
    return DONE if all(report.valid for _, report in reports) else BAD_NEWS


def _report(document: Json, resources: Resources) -> ValidationReport:
    validator = WorkflowValidator()
    if not is_template(document):
        return validator.validate(document, owner=OWNER, resources=resources).report
    try:
        template = _template(TemplateDocument.model_validate(document))
    except ValidationError as error:
        return report_of(findings_of(error, document))
    return validate_template(template, validator=validator, owner=OWNER, resources=resources)


def _template(document: TemplateDocument) -> Template:
    return Template(
        id=document.key,
        key=document.key,
        version=1,
        name=document.name,
        description=document.description,
        category=document.category,
        tags=tuple(document.tags),
        parameters=document.parameters,
        defaults=document.defaults,
        graph=document.graph,
        required_tools=tuple(document.required_tools),
        required_retrievers=tuple(document.required_retrievers),
    )


def _resources(settings: Settings, files: FilesRetriever) -> Resources:
    """What the service would offer a workflow, but for what is stored."""
    default = {"default": ConfiguredFolders(files, settings.files_roots)} if settings.files_roots else {}
    return Resources(
        models=LangChainModels(settings.providers, settings.model),
        prices=GenaiPrices(settings.prices),
        tools=builtin_tools(),
        retrievers={"files": files, **default},
        templates=BuiltinTemplates(),
        definitions=NoDefinitions(),
        conversations=NoConversations(),
    )
