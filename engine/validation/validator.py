"""The only entrance to validation: it takes a document and returns one report."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import orjson

from engine.documents.json_text import to_json
from engine.documents.strict_json import find_flaw, unescape
from engine.graph import Json, JsonObject, WorkflowGraph, canonical, content_hash, is_id, read_canonical
from engine.nodes.base import NodeConfig
from engine.report import Layer, Severity, ValidationReport
from engine.resources import Resources
from engine.validation import capability, names, paths, routing, schema, security
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding, report_of

CACHED_DOCUMENTS = 256
MAX_CACHED_BYTES = 64 << 10
MAX_FINDINGS_OF_A_RULE = 1_000
"""Bounds the work for hostile documents."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of validating a document.

    `graph` is the graph that runs: read back from `canonical`, every default written in. Both are null after a schema
    error. After any other error they are set but must not be run.
    """

    report: ValidationReport
    graph: WorkflowGraph | None = None
    canonical: bytes | None = None

    @property
    def content_hash(self) -> str | None:
        """The hash of the canonical form; null after a schema error."""
        return self.report.content_hash


@dataclass(frozen=True, slots=True)
class _Static:
    """The findings that depend on the document alone. `checked` is null after a schema error."""

    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...]
    checked: CheckedGraph | None = None
    graph: WorkflowGraph | None = None
    canonical: bytes | None = None
    content_hash: str | None = None
    security: tuple[Finding, ...] = ()


class WorkflowValidator:
    """Validates workflow graphs. Shared by all callers; it caches the findings about the last small documents."""

    def __init__(self) -> None:
        self._cached = lru_cache(maxsize=CACHED_DOCUMENTS)(_check_document)

    def validate(self, document: Json, *, owner: str, resources: Resources) -> Validation:
        """Check a document against every rule. Changes and stores nothing; no document makes it raise."""
        static = self._static(document)
        if static.checked is None or _has_error(static.findings):
            return _validation(static, static.findings, static.layers)
        findings = [*static.findings, *static.security, *_capability(static.checked, resources)]
        return _validation(static, findings, (*static.layers, Layer.SECURITY, Layer.CAPABILITY))

    def _static(self, document: Json) -> _Static:
        if isinstance(document, dict) and (oversized := tuple(schema.too_many(document))):
            return _Static(oversized, (Layer.SCHEMA,))
        try:
            data = to_json(document)
        except TypeError:
            return _refused(document)
        if orjson.loads(data) != document:
            return _refused(document)
        return self._cached(data) if len(data) <= MAX_CACHED_BYTES else _check_document(data)


def _check_document(data: bytes) -> _Static:
    document = orjson.loads(data)
    if find_flaw(document) is not None or not isinstance(document, dict):
        return _refused(document)
    if len(data) > schema.MAX_DOCUMENT_BYTES:
        message = f"The document is larger than {schema.MAX_DOCUMENT_BYTES:,} bytes."
        return _Static((Finding("schema.too_large", "", message),), (Layer.SCHEMA,))
    parsed = schema.parse(document)
    findings = [*parsed.findings[:MAX_FINDINGS_OF_A_RULE], *_run(schema.CHECKS, lambda rule: rule(parsed))]
    if parsed.graph is None or _has_error(findings):
        return _Static(_placed(document, findings), (Layer.SCHEMA,))
    return _check_graph(document, schema.normalise(parsed.graph, parsed.configs), parsed.configs, findings)


def _check_graph(
    document: JsonObject, graph: WorkflowGraph, configs: Mapping[int, NodeConfig], findings: list[Finding]
) -> _Static:
    checked = CheckedGraph(document, graph, {node.id: configs[index] for index, node in enumerate(graph.nodes)})
    found = [*findings, *_run(routing.CHECKS | names.CHECKS, lambda rule: rule(checked))]
    topology = checked.topology
    if topology is not None:
        found.extend(_run(paths.CHECKS, lambda rule: rule(checked, topology)))
    form = canonical(graph)
    return _Static(
        _placed(document, found),
        (Layer.SCHEMA, Layer.STRUCTURE),
        checked,
        read_canonical(form),
        form,
        content_hash(form),
        _placed(document, _run(security.CHECKS, lambda rule: rule(checked))),
    )


def _capability(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    found = _run(capability.CHECKS, lambda rule: rule(checked, resources))
    return iter(_placed(checked.document, found))


def _run(checks: Mapping[str, T], call: Callable[[T], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of all checks. One that raises becomes an error finding: validation fails closed."""
    for code, check in checks.items():
        try:
            yield from list(islice(call(check), MAX_FINDINGS_OF_A_RULE))
        except Exception as error:
            message = f"The rule {code} failed with {type(error).__name__}."
            yield Finding("internal.rule_failed", "", message, data={"code": code})


def _refused(document: object) -> _Static:
    flaw = find_flaw(document)
    if flaw is None:
        finding = Finding("schema.not_json", "", "The document is not a JSON object.")
    elif flaw.kind == "depth":
        finding = Finding("schema.too_deep", flaw.pointer, f"The value {flaw.reason}.")
    else:
        finding = Finding("schema.not_json", flaw.pointer, f"The value {flaw.reason}.")
    return _Static((finding,), (Layer.SCHEMA,))


def _placed(document: JsonObject, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings with pointers that exist in the document as sent; a default's pointer becomes that of its object."""
    return tuple(_named(document, replace(f, pointer=_existing(document, f.pointer))) for f in findings)


def _named(document: JsonObject, finding: Finding) -> Finding:
    """The finding with the id of the node or edge that its pointer is in, if that id is valid."""
    part, index = [*finding.pointer.split("/"), "", ""][1:3]
    items = document.get(part)
    if finding.node_id or finding.edge_id or not index or not isinstance(items, list):
        return finding
    item = items[int(index)]
    given = item.get("id") if isinstance(item, dict) else None
    name = given if isinstance(given, str) and is_id(given) else None
    if part == "nodes":
        return replace(finding, node_id=name)
    return replace(finding, edge_id=name or f"e{index}") if part == "edges" else finding


def _existing(document: JsonObject, pointer: str) -> str:
    value: Json = document
    existing = ""
    for step in pointer.split("/")[1:]:
        key = unescape(step)
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            break
        existing += f"/{step}"
    return existing


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.actual_severity is Severity.ERROR for finding in findings)


def _validation(static: _Static, findings: Iterable[Finding], layers: tuple[Layer, ...]) -> Validation:
    report = report_of(findings, content_hash=static.content_hash, layers=layers)
    return Validation(report, static.graph, static.canonical)
