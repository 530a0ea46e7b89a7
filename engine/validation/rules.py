"""The list of rules: the code, severity, title and hint of each.

A code never changes its meaning and is never reused. The checks are in the modules of the layers.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice

from engine.graph import JsonObject
from engine.report import MAX_ISSUES, Counts, Issue, Layer, Severity, ValidationReport

MAX_NAME = 64
"""Longer names are cut before they are compared."""
MAX_SUGGESTIONS = 20
"""The most findings of a report that ask whether another name was meant."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Its `code` begins with the name of its layer."""

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
    """A name that does not exist, and the names that do. They are compared only when a finding goes into a report."""

    name: str
    known: Collection[str]
    prefix: str = ""

    def question(self) -> str | None:
        """The question whether the nearest name was meant; null if none is near."""
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
        """The severity of this finding."""
        return self.severity or RULES[self.code].severity

    def _hint(self, *, suggests: bool) -> str:
        question = self.near.question() if self.near and suggests else None
        return " ".join(filter(None, (question, self.hint))) or RULES[self.code].hint

    def issue(self, *, suggests: bool = True) -> Issue:
        """The finding as an issue of a report; the nearest name is searched for if it `suggests` one."""
        rule = RULES[self.code]
        return Issue(
            code=self.code,
            severity=self.actual_severity,
            layer=rule.layer,
            pointer=self.pointer,
            node_id=self.node_id,
            edge_id=self.edge_id,
            message=self.message,
            hint=self._hint(suggests=suggests),
            data=self.data,
        )


def report_of(
    findings: Iterable[Finding], *, content_hash: str | None = None, layers: Sequence[Layer] = (Layer.SCHEMA,)
) -> ValidationReport:
    """The report of these findings, sorted, and cut to the length of a report."""
    found = sorted(findings, key=_rank)
    counts = Counter(finding.actual_severity for finding in found)
    return ValidationReport(
        valid=counts[Severity.ERROR] == 0,
        content_hash=content_hash,
        layers=list(layers),
        issues=issues_of(found),
        counts=Counts(error=counts[Severity.ERROR], warning=counts[Severity.WARNING], info=counts[Severity.INFO]),
        truncated=len(found) > MAX_ISSUES,
    )


def issues_of(findings: Iterable[Finding]) -> list[Issue]:
    """The issues of a report; the nearest names only of the first, since each search takes as long as all the rest."""
    first = enumerate(islice(findings, MAX_ISSUES))
    return [finding.issue(suggests=index < MAX_SUGGESTIONS) for index, finding in first]


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
        Rule("schema.too_deep", _E, "Nested too deeply", "Nest at most 32 levels."),
        Rule(
            "schema.too_large",
            _E,
            "Too large",
            "Shorten it. Long texts belong in the input or in documents for retrieval.",
        ),
        Rule("schema.too_many", _E, "Too many items", "Remove some, or split the workflow."),
        Rule("schema.version", _E, "Unknown schema version", 'Set "schema" to "spanloom/1".'),
        Rule("schema.missing_field", _E, "Missing field", "Add the field."),
        Rule("schema.wrong_type", _E, "Wrong type", "Send a value of the declared type; values are not converted."),
        Rule("schema.unknown_field", _E, "Unknown field", "Remove the field. Notes for editors go under `metadata`."),
        Rule("schema.out_of_range", _E, "Out of range", "Choose a value in the range."),
        Rule(
            "schema.bad_id",
            _E,
            "Invalid name",
            "Use up to 64 letters, digits and underscores, not starting with a digit; not in, true, false or null.",
        ),
        Rule("schema.duplicate_id", _E, "Duplicate id", "Ids must be unique: give one of the two another id."),
        Rule("schema.unknown_node_type", _E, "Unknown node type", "Use one of the node types that this server has."),
        Rule("schema.exclusive_fields", _E, "Mutually exclusive fields", "Set exactly one of them."),
        Rule("schema.inconsistent", _E, "Contradictory fields", "Change one of the fields."),
        Rule("schema.not_allowed_here", _E, "Not allowed here", "Remove it, or rename the label."),
        Rule(
            "schema.bad_json_schema",
            _E,
            "Invalid JSON Schema",
            "Use JSON Schema 2020-12 with local `$ref`, and at most 1,000 branches for one value; patterns cannot use "
            "look-around or back-references.",
        ),
        Rule("schema.bad_prompt", _E, "Invalid prompt", r"Write {{ path | filter }}. A literal {{ is written \{{."),
        Rule(
            "schema.bad_parameter",
            _E,
            "Invalid template parameter",
            "Declare each parameter and give it a default or an example.",
        ),
        Rule("schema.unused_parameter", _W, "Unused template parameter", "Use the parameter, or remove it."),
        Rule("structure.start_count", _E, "Not exactly one start node", "Keep exactly one node of type `start`."),
        Rule("structure.no_end", _E, "No end node", "Add a node of type `end`."),
        Rule(
            "structure.unknown_node",
            _E,
            "Edge to an unknown node",
            "Change the edge to an existing node, or add the node.",
        ),
        Rule("structure.duplicate_edge", _E, "Duplicate edge", "Remove one of the two edges."),
        Rule("structure.start_entered", _E, "Edge into the start node", "Connect the edge to the node after start."),
        Rule("structure.end_left", _E, "Edge out of an end node", "Remove the edge; a run stops at an end node."),
        Rule("structure.dead_end", _E, "Dead end", "Connect the node to the next one, or to an end node."),
        Rule(
            "structure.no_way_to_end",
            _E,
            "No path to an end node",
            "Connect the node to an end node, directly or through others.",
        ),
        Rule("structure.unreachable", _E, "Unreachable node", "Connect start to this node, or remove the node."),
        Rule(
            "structure.mixed_routing",
            _E,
            "Mixed routing",
            "Use `when` on all of its edges or `condition` on all of them.",
        ),
        Rule(
            "structure.two_defaults",
            _E,
            "Two default edges",
            "Keep one edge without `when` and `condition`; it is the default.",
        ),
        Rule("structure.unknown_label", _E, "Unknown label", "Use one of the labels of the source node."),
        Rule("structure.duplicate_label", _E, "Duplicate label", "Keep one edge per label."),
        Rule(
            "structure.uncovered_label",
            _E,
            "Label without an edge",
            "Add an edge for the label, or a default edge without `when`.",
        ),
        Rule("structure.no_default", _W, "No default", "Add a default; without it the run can fail with `no_route`."),
        Rule("structure.dead_condition", _W, "Condition without effect", "Correct the condition, or remove it."),
        Rule(
            "structure.error_edge",
            _E,
            "Error edge and policy do not match",
            'Use both `on_error: {"policy": "route"}` and exactly one edge with `when: "error"`, or neither.',
        ),
        Rule(
            "structure.continue_label",
            _E,
            "Continue without a label",
            "Set `on_error.label` to a label that has an edge.",
        ),
        Rule(
            "structure.handler_unused",
            _W,
            "Unused error handler",
            "Connect an error edge to the handler, or remove it.",
        ),
        Rule("structure.fork_without_join", _E, "Fork without a join", "Connect all branches to one common node."),
        Rule("structure.branches_overlap", _E, "Overlapping branches", "Give each branch its own nodes."),
        Rule("structure.branch_entered", _E, "Branch entered from outside", "Enter the branch only through its fork."),
        Rule("structure.too_many_branches", _E, "Too many branches", "Use at most 32 branches, or split the fork."),
        Rule(
            "structure.empty_branch", _W, "Empty branch", "Remove the edge from the fork to the join; it has no effect."
        ),
        Rule(
            "structure.parallel_set",
            _W,
            "Branches write the same thing",
            "Check that the order of the edges is the one you want.",
        ),
        Rule(
            "structure.pause_in_branch",
            _E,
            "Pause in a branch",
            "Move the node before the fork or after the join, or limit the delay to 60 s.",
        ),
        Rule("structure.endless_cycle", _E, "Endless cycle", "Add an edge that leads out of the cycle."),
        Rule("structure.cycle_bound", _W, "Cycle without an iteration limit", "Add a loop node to it."),
        Rule(
            "structure.loop_without_body",
            _E,
            "Loop without a body",
            "Connect the last node of the body back to the loop node.",
        ),
        Rule(
            "structure.tools_not_routed",
            _E,
            "Tool calls without a tools node",
            "Connect the `tool_calls` edge to a tools node.",
        ),
        Rule(
            "structure.tools_unused",
            _W,
            "Unused tools node",
            "Put the node between a `tool_calls` edge and a model, and name its tools in `allowed_tools`.",
        ),
        Rule(
            "structure.tool_loop_blind",
            _E,
            "Model that cannot see its tools' answers",
            "Set `include_history` and `append_to_messages` to true.",
        ),
        Rule("structure.bad_expression", _E, "Invalid expression", "Correct the expression. Its language is CEL."),
        Rule(
            "structure.expression_type",
            _E,
            "Condition that is not a boolean",
            "Write a condition whose result is true or false.",
        ),
        Rule("structure.unknown_name", _E, "Unknown name", "Use a name that exists in this place."),
        Rule(
            "structure.unset_variable",
            _W,
            "Unset variable",
            "Declare the variable under `variables`, or set it in a variable node.",
        ),
        Rule(
            "structure.maybe_missing",
            _W,
            "Output that may be missing",
            "Guard it with has(…) in a condition, or | default(…) in a prompt.",
        ),
        Rule("structure.unknown_output_field", _W, "Unknown output field", "Read one of the output's fields."),
        Rule(
            "structure.unknown_input_field",
            _W,
            "Undeclared input field",
            "Correct the name, or declare the field in `input_schema`.",
        ),
        Rule(
            "structure.durability",
            _E,
            "Durability does not match",
            "`on_lost: resume` needs `durability: step`, and `spend: at_end` needs `none`.",
        ),
        Rule(
            "structure.bypass",
            _E,
            "No path around an optional node",
            "Give the node exactly one edge out without `when` and `condition`.",
        ),
        Rule("structure.nothing_streams", _I, "Nothing streams", "Set `stream` on the model whose text users see."),
        Rule("structure.large", _W, "Close to a size limit", "Split the workflow before it grows further."),
        Rule(
            "security.secret_value",
            _E,
            "Secret in the document",
            "Remove it and revoke the secret; keys belong in the server's settings.",
        ),
        Rule(
            "security.secret_in_prompt",
            _E,
            "Reference to a secret in a text",
            "Remove the reference; no field of this workflow accepts a secret.",
        ),
        Rule(
            "security.all_tools",
            _W,
            "All tools allowed",
            "List the tools by name; `*` also allows tools that are added later.",
        ),
        Rule(
            "security.untrusted_in_system",
            _W,
            "Untrusted text in a system message",
            "Move it into `prompt`; in a system message it can act as an instruction.",
        ),
        Rule(
            "security.error_text_shown",
            _W,
            "Error text shown to the user",
            "Write a text for users; error messages can reveal internals.",
        ),
        Rule("capability.no_model", _E, "No model", "Set `provider` and `model` in the node or in `model_defaults`."),
        Rule("capability.unknown_model", _E, "Model not available", "Configure the provider, or use another model."),
        Rule(
            "capability.unknown_service_tier",
            _E,
            "Unknown service tier",
            "Use a tier that the provider has, or remove `service_tier`.",
        ),
        Rule(
            "capability.unpriced_model",
            _E,
            "Model without a price",
            "Give it a price in the file that SPANLOOM_PRICES names, or use a model with a price.",
        ),
        Rule("capability.unknown_tool", _E, "Unknown tool", "Use a registered tool."),
        Rule("capability.unknown_retriever", _E, "Unknown retriever", "Use a registered retriever."),
        Rule(
            "capability.bad_options",
            _E,
            "Invalid retriever options",
            "Change the options to match the retriever's schema.",
        ),
        Rule("capability.above_cap", _E, "Above the server's cap", "Lower the value to the cap."),
        Rule("capability.no_checkpointer", _E, "No checkpoints", 'Set `durability` to "none".'),
        Rule("capability.budget_too_small", _W, "Budget below one call", "Raise the budget, or lower `max_tokens`."),
        Rule("internal.rule_failed", _E, "A rule failed", "Report this as a bug; the document could not be checked."),
    )
}
