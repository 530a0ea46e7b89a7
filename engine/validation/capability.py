"""The capability layer: can the graph run here, now, with these models, tools, retrievers and caps."""

from collections.abc import Callable, Iterator

from engine.documents.json_schema import validator as schema_validator
from engine.documents.strict_json import escape
from engine.nodes.memory import MemoryConfig
from engine.nodes.model import DEFAULT_MAX_TOKENS, ModelConfig, name_model
from engine.nodes.retrieval import RetrievalConfig
from engine.nodes.tools import ToolsConfig
from engine.report import Severity
from engine.resources import Resources
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding

NODE_TIMEOUT_CAP_SECONDS = 3_600


def no_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """Neither node, defaults nor server name provider and model."""
    for node_id, named in _models(checked, resources):
        if named is None:
            message = "No provider and model are named for the node."
            yield checked.at_node("capability.no_model", node_id, message, place="/config")


def unknown_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A model that cannot be called here."""
    for node_id, named in _models(checked, resources):
        problem = resources.models.problem(*named) if named is not None else None
        if problem is not None:
            message = "The model of the node cannot be called here."
            yield checked.at_node("capability.unknown_model", node_id, message, place="/config", hint=problem)


def unpriced_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A model without a price: an error under a cost budget."""
    under_budget = checked.graph.limits.budget_nano_usd is not None
    for node_id, named in _models(checked, resources):
        if named is not None and resources.prices.upper_nano_usd(*named, 1, 1) is None:
            message = "The model has no known price" + (", so the budget cannot hold." if under_budget else ".")
            yield Finding(
                "capability.unpriced_model",
                f"{checked.pointers[node_id]}/config",
                message,
                node_id=node_id,
                severity=Severity.ERROR if under_budget else Severity.WARNING,
            )


def unknown_tool(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A tool that is not registered here."""
    for node_id, config in checked.of(ToolsConfig).items():
        for index, name in enumerate(config.allowed_tools):
            if name != "*" and name not in resources.tools:
                place = f"/config/allowed_tools/{index}"
                hint = f"Registered tools: {', '.join(sorted(resources.tools)) or 'none'}."
                message = "There is no such tool here."
                yield checked.at_node("capability.unknown_tool", node_id, message, place=place, hint=hint)


def unknown_retriever(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A retriever that is not registered here."""
    for node_id, config in checked.of(RetrievalConfig).items():
        if config.retriever not in resources.retrievers:
            hint = f"Registered retrievers: {', '.join(sorted(resources.retrievers)) or 'none'}."
            message = "There is no such retriever here."
            place = "/config/retriever"
            yield checked.at_node("capability.unknown_retriever", node_id, message, place=place, hint=hint)


def bad_options(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """Options against the retriever's own schema."""
    for node_id, config in checked.of(RetrievalConfig).items():
        if config.retriever in resources.retrievers:
            schema = resources.retrievers[config.retriever].options_schema
            for error in schema_validator(schema).iter_errors(config.options):
                place = "/config/options" + "".join(f"/{escape(step)}" for step in error.instance_path)
                message = f"The options break the rule `{error.kind.name}` of the retriever's schema."
                yield checked.at_node("capability.bad_options", node_id, message, place=place)


def above_cap(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A timeout above the server's cap; those of the graph's limits are part of their ranges."""
    for node_id, node in checked.nodes.items():
        if node.timeout_seconds is not None and node.timeout_seconds > NODE_TIMEOUT_CAP_SECONDS:
            message = f"The timeout is above {NODE_TIMEOUT_CAP_SECONDS:,} seconds."
            yield checked.at_node("capability.above_cap", node_id, message, place="/timeout_seconds")


def no_checkpointer(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """Durability `exit` or `step` where nothing keeps checkpoints."""
    if checked.graph.durability != "none" and resources.no_checkpoints is not None:
        message = f"The durability `{checked.graph.durability}` needs checkpoints, and none can be kept here."
        yield Finding("capability.no_checkpointer", "/durability", message, hint=resources.no_checkpoints)


def budget_too_small(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """What one single call reserves for its answer is above the budget."""
    limits = checked.graph.limits
    if limits.budget_tokens is None and limits.budget_nano_usd is None:
        return
    for node_id, named in _models(checked, resources):
        tokens = _output_tokens(checked, node_id)
        cost = resources.prices.upper_nano_usd(*named, 0, tokens) if named is not None else None
        over_tokens = limits.budget_tokens is not None and tokens > limits.budget_tokens
        over_cost = limits.budget_nano_usd is not None and cost is not None and cost > limits.budget_nano_usd
        if over_tokens or over_cost:
            message = "The answer alone may be above the budget, so the call would be refused."
            yield checked.at_node("capability.budget_too_small", node_id, message, place="/config")


CHECKS: dict[str, Callable[[CheckedGraph, Resources], Iterator[Finding]]] = {
    "capability.no_model": no_model,
    "capability.unknown_model": unknown_model,
    "capability.unpriced_model": unpriced_model,
    "capability.unknown_tool": unknown_tool,
    "capability.unknown_retriever": unknown_retriever,
    "capability.bad_options": bad_options,
    "capability.above_cap": above_cap,
    "capability.no_checkpointer": no_checkpointer,
    "capability.budget_too_small": budget_too_small,
}
"""The check of each code."""


def _models(checked: CheckedGraph, resources: Resources) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Every node that calls a model, with the provider and model it calls."""
    models = checked.of(ModelConfig)
    memories = {id_: config for id_, config in checked.of(MemoryConfig).items() if config.strategy == "summarize"}
    if not models and not memories:
        return
    defaults = checked.graph.model_defaults
    server = resources.models.default()
    for node_id in checked.configs:
        config = models.get(node_id) or memories.get(node_id)
        if config is not None:
            yield node_id, name_model(config.provider, config.model, defaults=defaults, server=server)


def _output_tokens(checked: CheckedGraph, node_id: str) -> int:
    config = checked.configs[node_id]
    if isinstance(config, MemoryConfig):
        return config.summary_max_tokens
    own = config.max_tokens if isinstance(config, ModelConfig) else None
    return own or checked.graph.model_defaults.max_tokens or DEFAULT_MAX_TOKENS
