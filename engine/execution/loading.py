"""Loads documents: validates them every time, and plans and compiles them once per content hash."""

from collections import OrderedDict

from engine.documents.json_schema import compiled as compiled_schema
from engine.documents.schema_branches import UnusableSchema
from engine.errors import InvalidWorkflow, MalformedWorkflow
from engine.graph import JsonObject, content_hash, read_canonical
from engine.interpreter.langgraph import CompiledWorkflow, compile_plan
from engine.interpreter.plan import make_plan
from engine.resources import Resources
from engine.validation.validator import WorkflowValidator

CACHED_WORKFLOWS = 512


class Loader:
    """Validates documents and caches the compiled workflows."""

    def __init__(self, resources: Resources) -> None:
        """Raises `UnusableSchema` for a tool or a retriever whose own JSON Schema cannot be used."""
        _check_schemas(resources)
        self._resources = resources
        self._validator = WorkflowValidator()
        self._compiled: OrderedDict[str, CompiledWorkflow] = OrderedDict()

    def load(self, document: JsonObject, owner: str, *, refuse_shape: bool) -> CompiledWorkflow:
        """The compiled workflow of a valid document.

        Raises `InvalidWorkflow`; or with `refuse_shape` `MalformedWorkflow`, if it does not have the shape of a graph.
        """
        validation = self._validator.validate(document, owner=owner, resources=self._resources)
        if not validation.report.valid:
            if refuse_shape and validation.graph is None:
                raise MalformedWorkflow(validation.report)
            raise InvalidWorkflow(validation.report)
        assert validation.canonical is not None
        assert validation.content_hash is not None
        return self._compile(validation.canonical, validation.content_hash)

    def load_accepted(self, canonical: bytes) -> CompiledWorkflow:
        """The compiled workflow of a graph that was validated when its execution was accepted."""
        return self._compile(canonical, content_hash(canonical))

    def _compile(self, canonical: bytes, content_hash: str) -> CompiledWorkflow:
        compiled = self._compiled.get(content_hash)
        if compiled is None:
            compiled = compile_plan(make_plan(read_canonical(canonical), canonical, content_hash))
            self._compiled[content_hash] = compiled
            if len(self._compiled) > CACHED_WORKFLOWS:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(content_hash)
        return compiled


def _check_schemas(resources: Resources) -> None:
    schemas = [(f"tool {name!r}: parameters", tool.spec.parameters) for name, tool in resources.tools.items()]
    schemas += [(f"retriever {name!r}: options", each.options_schema) for name, each in resources.retrievers.items()]
    for owner, schema in schemas:
        try:
            compiled_schema(schema)
        except UnusableSchema as error:
            raise UnusableSchema(f"{owner}: {error}", error.path) from error
