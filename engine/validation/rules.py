"""The list of rules: what each code means, how bad it is, and what to do about it.

A code never changes its meaning and is never reused. The functions that look for them are in the modules of the layers.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from engine.graph import JsonObject
from engine.report import MAX_ISSUES, Counts, Issue, Layer, Severity, ValidationReport

MAX_NAME = 64
"""A longer name is like no other."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `code` begins with its layer."""

    code: str
    severity: Severity
    title: str
    hint: str

    @property
    def layer(self) -> Layer:
        """The layer that the code names."""
        return Layer(self.code.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Near:
    """A name that does not exist and those that do. The nearest is looked for only where a person will read it."""

    name: str
    known: Collection[str]
    prefix: str = ""

    def question(self) -> str | None:
        """Whether the nearest was meant; null if none is near."""
        found = get_close_matches(self.name[:MAX_NAME], sorted(self.known), n=1)
        return f"Did you mean `{self.prefix}{found[0]}`?" if found else None


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken somewhere. `hint` and `severity` null are the rule's own; `near` comes before `hint`."""

    code: str
    pointer: str
    message: str
    node_id: str | None = None
    edge_id: str | None = None
    hint: str | None = None
    severity: Severity | None = None
    data: JsonObject = field(default_factory=dict)
    near: Near | None = None

    @property
    def actual_severity(self) -> Severity:
        """How bad it is here."""
        return self.severity or RULES[self.code].severity

    def _hint(self) -> str:
        question = self.near.question() if self.near else None
        return " ".join(filter(None, (question, self.hint))) or RULES[self.code].hint

    def issue(self) -> Issue:
        """The finding as it stands in a report."""
        rule = RULES[self.code]
        return Issue(
            code=self.code,
            severity=self.actual_severity,
            layer=rule.layer,
            pointer=self.pointer,
            node_id=self.node_id,
            edge_id=self.edge_id,
            message=self.message,
            hint=self._hint(),
            data=self.data,
        )


def report_of(
    findings: Iterable[Finding], *, content_hash: str | None = None, layers: Sequence[Layer] = (Layer.SCHEMA,)
) -> ValidationReport:
    """The report of these findings, in its order and at most its length."""
    found = sorted(findings, key=_rank)
    counts = Counter(finding.actual_severity for finding in found)
    return ValidationReport(
        valid=counts[Severity.ERROR] == 0,
        content_hash=content_hash,
        layers=list(layers),
        issues=[finding.issue() for finding in found[:MAX_ISSUES]],
        counts=Counts(error=counts[Severity.ERROR], warning=counts[Severity.WARNING], info=counts[Severity.INFO]),
        truncated=len(found) > MAX_ISSUES,
    )


def _rank(finding: Finding) -> tuple[int, int, list[tuple[int, str]], str]:
    steps = finding.pointer.split("/")
    place = [(int(step), "") if step.isdecimal() and len(step) < 9 else (-1, step) for step in steps]
    layer = RULES[finding.code].layer
    return _SEVERITIES.index(finding.actual_severity), _LAYERS.index(layer), place, finding.code


_SEVERITIES = list(Severity)
_LAYERS = list(Layer)
_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule("schema.not_json", _E, "Not a JSON object", "Send one JSON object without NUL, NaN or huge integers."),
        Rule("schema.too_deep", _E, "Nested too deep", "Flatten the document to at most 32 levels."),
        Rule("schema.too_large", _E, "Too large", "Shorten it; long texts belong in the input or a retriever."),
        Rule("schema.too_many", _E, "Too many items", "Split the workflow or leave items out."),
        Rule("schema.version", _E, "Unknown schema version", 'Write "schema": "spanloom/1".'),
        Rule("schema.missing_field", _E, "Missing field", "Add the field."),
        Rule("schema.wrong_type", _E, "Wrong type", "Give a value of the declared type; nothing is converted."),
        Rule("schema.unknown_field", _E, "Unknown field", "Remove the field; notes for editors go under `metadata`."),
        Rule("schema.out_of_range", _E, "Out of range", "Choose a value inside the range."),
        Rule(
            "schema.bad_id",
            _E,
            "Not a name",
            "Use letters, digits and underscores, not first a digit, at most 64, and none of in, true, false, null.",
        ),
        Rule("schema.duplicate_id", _E, "Duplicate id", "Give every node and every edge an id of its own."),
        Rule("schema.unknown_node_type", _E, "Unknown node type", "Use one of the node types of this server."),
        Rule("schema.exclusive_fields", _E, "Fields exclude each other", "Give exactly one of the two."),
        Rule("schema.inconsistent", _E, "Fields contradict each other", "Make the fields agree."),
        Rule("schema.not_allowed_here", _E, "Not allowed here", "Remove it."),
        Rule(
            "schema.bad_json_schema",
            _E,
            "Not a JSON Schema",
            "Use JSON Schema 2020-12 with local `$ref` and without look-around or back-references in patterns.",
        ),
        Rule("schema.bad_prompt", _E, "Prompt does not parse", r"Write {{ path | filter }}; a literal {{ is \{{."),
        Rule("schema.bad_parameter", _E, "Bad template parameter", "Declare each parameter and give it a default."),
        Rule("schema.unused_parameter", _W, "Unused template parameter", "Use the parameter or remove it."),
        Rule("structure.start_count", _E, "Not exactly one start", "Keep exactly one node of type start."),
        Rule("structure.no_end", _E, "No end", "Add a node of type end."),
        Rule("structure.unknown_node", _E, "Edge to a node that does not exist", "Name an existing node."),
        Rule("structure.duplicate_edge", _E, "Duplicate edge", "Remove one of the two."),
        Rule("structure.start_entered", _E, "Edge into start", "Lead the edge to the node behind start."),
        Rule("structure.end_left", _E, "Edge out of end", "Remove the edge; a run stops at an end."),
        Rule("structure.dead_end", _E, "Dead end", "Give the node a normal edge out."),
        Rule("structure.no_way_to_end", _E, "No way to an end", "Add a path of normal edges to an end."),
        Rule("structure.unreachable", _E, "Unreachable node", "Lead a path from start to the node, or remove it."),
        Rule("structure.mixed_routing", _E, "Mixed routing", "Route by labels or by conditions, not by both."),
        Rule("structure.two_defaults", _E, "Two default edges", "Keep one plain edge beside the others."),
        Rule("structure.unknown_label", _E, "Label the node cannot give", "Use one of the labels of the node."),
        Rule("structure.duplicate_label", _E, "One label on two edges", "Keep one edge per label."),
        Rule("structure.uncovered_label", _E, "Label without an edge", "Add an edge for the label, or a plain edge."),
        Rule("structure.no_default", _W, "No default", "Add a default, or the run can fail with no_route."),
        Rule("structure.dead_condition", _W, "Condition without effect", "Remove the condition or correct it."),
        Rule(
            "structure.error_edge",
            _E,
            "Error edge and policy disagree",
            'Give on_error the policy "route" and exactly one edge `when: "error"`, or neither.',
        ),
        Rule("structure.continue_label", _E, "Continue without a label", "Name a label that has an edge in on_error."),
        Rule("structure.handler_unused", _W, "Error handler without errors", "Lead an error edge to it, or remove it."),
        Rule("structure.fork_without_join", _E, "Fork without a join", "Let all branches lead to one common node."),
        Rule("structure.branches_overlap", _E, "Branches overlap", "Give each branch nodes of its own."),
        Rule("structure.branch_entered", _E, "Branch entered from outside", "Enter a branch through its fork only."),
        Rule("structure.too_many_branches", _E, "Too many branches", "Keep at most 32 branches."),
        Rule("structure.empty_branch", _W, "Empty branch", "Remove the edge from the fork straight to the join."),
        Rule("structure.parallel_set", _W, "Branches write the same thing", "Check that the order of edges is meant."),
        Rule(
            "structure.pause_in_branch",
            _E,
            "Pause in a branch",
            "Move it before the fork or behind the join, or let the delay last at most 60 s.",
        ),
        Rule("structure.endless_cycle", _E, "Endless cycle", "Add a normal edge that leads out of the cycle."),
        Rule("structure.cycle_bound", _W, "Cycle that only limits end", "Put a loop node into the cycle."),
        Rule("structure.loop_without_body", _E, "Loop without a body", "Lead the body back to the loop node."),
        Rule("structure.tools_not_routed", _E, "No tools behind the calls", "Lead `tool_calls` to a tools node."),
        Rule(
            "structure.tools_unused",
            _W,
            "Tools without use",
            "Put it between a `tool_calls` edge and a model.",
        ),
        Rule(
            "structure.tool_loop_blind",
            _E,
            "Model that cannot see its tools' answers",
            "Turn include_history and append_to_messages on.",
        ),
        Rule("structure.bad_expression", _E, "Expression does not parse", "Correct the expression; it is CEL."),
        Rule(
            "structure.expression_type",
            _E,
            "Condition that is no boolean",
            "Its result must be true or false.",
        ),
        Rule("structure.unknown_name", _E, "Unknown name", "Name something that exists here."),
        Rule("structure.unset_variable", _W, "Variable nobody sets", "Declare it under `variables` or set it."),
        Rule("structure.maybe_missing", _W, "Output that may be missing", "Guard it with has() or | default(…)."),
        Rule("structure.unknown_output_field", _W, "Field the output does not have", "Read a field of the output."),
        Rule("structure.durability", _E, "Durability does not fit", "`on_lost: resume` needs `durability: step`."),
        Rule("structure.bypass", _E, "No way round an optional node", "Give the node exactly one plain edge out."),
        Rule("structure.nothing_streams", _I, "Nothing streams", "Set `stream` on the model whose text is shown."),
        Rule("structure.large", _W, "Close to a size limit", "Split the workflow before it grows further."),
        Rule(
            "security.secret_value",
            _E,
            "Secret in the document",
            "Take it out and revoke it; keys belong in the server's settings.",
        ),
        Rule(
            "security.secret_in_prompt",
            _E,
            "Reference to a secret in a text",
            "Take it out: a secret may stand only in fields declared for one.",
        ),
        Rule("security.all_tools", _W, "All tools allowed", "Name the tools: later ones would be allowed too."),
        Rule(
            "security.untrusted_in_system",
            _W,
            "Foreign text in a system message",
            "Move it into `prompt`: in a system message it can give orders.",
        ),
        Rule(
            "security.error_text_shown",
            _W,
            "Error text shown to the user",
            "Write what the user should read; error texts can hold internals.",
        ),
        Rule("capability.no_model", _E, "No model", "Name provider and model in the node or in model_defaults."),
        Rule("capability.unknown_model", _E, "Model not available", "Configure the provider, or name another model."),
        Rule("capability.unpriced_model", _E, "Model without a price", "Use a model with a price."),
        Rule("capability.unknown_tool", _E, "Unknown tool", "Name a registered tool."),
        Rule("capability.unknown_retriever", _E, "Unknown retriever", "Name a registered retriever."),
        Rule("capability.bad_options", _E, "Options do not fit the retriever", "Follow the retriever's schema."),
        Rule("capability.above_cap", _E, "Above the server's cap", "Lower it."),
        Rule("capability.no_checkpointer", _E, "No checkpoints here", 'Use `durability: "none"`.'),
        Rule("capability.budget_too_small", _W, "Budget below one call", "Raise the budget or lower max_tokens."),
        Rule("internal.rule_failed", _E, "A rule broke", "Report this: the document could not be checked."),
    )
}
