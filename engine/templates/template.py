"""The JSON document of a template, and the built-in templates."""

import importlib.resources
from functools import cache
from uuid import NAMESPACE_URL, uuid5

import orjson

from engine.graph import Document, JsonObject
from engine.resources import Template


class TemplateDocument(Document):
    """A template in a JSON file. `engine.resources.Template` describes the fields."""

    key: str
    name: str
    description: str
    category: str
    tags: list[str]
    parameters: JsonObject
    defaults: JsonObject
    graph: JsonObject
    required_tools: list[str]
    required_retrievers: list[str]


@cache
def load_builtin() -> tuple[Template, ...]:
    """The built-in templates, sorted by key. Their version is 1 until a store assigns one."""
    folder = importlib.resources.files("engine.templates") / "builtin"
    files = (file for file in folder.iterdir() if file.name.endswith(".json"))
    documents = [TemplateDocument.model_validate(orjson.loads(file.read_bytes())) for file in files]
    templates = [template_of(each, template_id=builtin_id(each.key), is_builtin=True) for each in documents]
    return tuple(sorted(templates, key=lambda template: template.key))


def builtin_id(key: str) -> str:
    """The id of a built-in template, the same on every installation."""
    return str(uuid5(NAMESPACE_URL, f"spanloom:template:{key}"))


def template_of(document: TemplateDocument, *, template_id: str, is_builtin: bool = False) -> Template:
    """The first version of a template, from its document."""
    return Template(
        id=template_id,
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
        is_builtin=is_builtin,
    )
