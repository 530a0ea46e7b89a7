"""The capability layer: whether the graph can run on this server now, with its models, tools and caps."""

from collections.abc import Callable, Iterator

from engine.documents.json_schema import compiled
from engine.documents.strict_json import escape
from engine.nodes.base import ModelUse
from engine.report import Severity
from engine.resources import Resources, Served
from engine.validation.checked_graph import CheckedGraph
from engine.validation.rules import Finding

NODE_TIMEOUT_CAP_SECONDS = 3_600


def no_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """No provider and model are named by the node, the graph's defaults or the server."""
    for node_id, named, _ in _models(checked, resources):
        if named is None:
            message = "No provider and model are set for this node."
            yield checked.at_node("capability.no_model", node_id, message, place="/config")


def unknown_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A model that this server cannot call."""
    for node_id, named, _ in _models(checked, resources):
        problem = resources.models.problem(*named) if named is not None else None
        if problem is not None:
            message = "This server cannot call the node's model."
            yield checked.at_node("capability.unknown_model", node_id, message, place="/config", hint=problem)


def unknown_service_tier(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A service tier that the provider does not have."""
    for node_id, named, use in _models(checked, resources):
        if named is None or use.service_tier is None or resources.models.problem(*named) is not None:
            continue
        tiers = resources.models.server(named[0]).service_tiers
        if use.service_tier not in tiers:
            message = f"The provider {named[0]} has no service tier {use.service_tier} to ask for."
            known = f"Use {' or '.join(sorted(tiers))}, or remove" if tiers else "Remove"
            hint = f"{known} `service_tier`."
            place = "/config/service_tier"
            yield checked.at_node("capability.unknown_service_tier", node_id, message, place=place, hint=hint)


def unpriced_model(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A model without a price: an error under a cost budget."""
    under_budget = checked.graph.limits.budget_nano_usd is not None
    for node_id, named, use in _models(checked, resources):
        if named is not None and _upper_nano_usd(resources, named, use, 1, 1) is None:
            message = "The model has no known price" + (", so a cost budget cannot be kept." if under_budget else ".")
            yield Finding(
                "capability.unpriced_model",
                f"{checked.pointers[node_id]}/config",
                message,
                node_id=node_id,
                severity=Severity.ERROR if under_budget else Severity.WARNING,
            )


def unknown_tool(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A tool that is not registered on this server."""
    for node_id, tools in checked.tools_named.items():
        for pointer, name in tools.items():
            if name != "*" and name not in resources.tools:
                place = f"/config{pointer}"
                hint = f"Registered tools: {', '.join(sorted(resources.tools)) or 'none'}."
                message = "This server has no such tool."
                yield checked.at_node("capability.unknown_tool", node_id, message, place=place, hint=hint)


def unknown_retriever(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A retriever that is not registered on this server."""
    for node_id, use in checked.retriever_uses.items():
        if use.name not in resources.retrievers:
            hint = f"Registered retrievers: {', '.join(sorted(resources.retrievers)) or 'none'}."
            message = "This server has no such retriever."
            place = f"/config{use.name_pointer}"
            yield checked.at_node("capability.unknown_retriever", node_id, message, place=place, hint=hint)


def bad_options(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """Options that break the retriever's own schema."""
    for node_id, use in checked.retriever_uses.items():
        if use.name in resources.retrievers:
            mismatch = compiled(resources.retrievers[use.name].options_schema).find_mismatch(use.options)
            if mismatch is not None:
                place = f"/config{use.options_pointer}" + "".join(f"/{escape(step)}" for step in mismatch.path)
                rule = f"the keyword `{mismatch.keyword}` of the" if mismatch.keyword else "the"
                message = f"The options break {rule} retriever's schema."
                yield checked.at_node("capability.bad_options", node_id, message, place=place)


def above_cap(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """A node timeout above the server's cap. The caps of the graph's limits are the ranges of their fields."""
    for node_id, node in checked.nodes.items():
        if node.timeout_seconds is not None and node.timeout_seconds > NODE_TIMEOUT_CAP_SECONDS:
            message = f"The timeout is above {NODE_TIMEOUT_CAP_SECONDS:,} seconds."
            yield checked.at_node("capability.above_cap", node_id, message, place="/timeout_seconds")


def no_checkpointer(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """Durability `exit` or `step` on a server that keeps no checkpoints."""
    if checked.graph.durability != "none" and resources.no_checkpoints is not None:
        message = f"Durability `{checked.graph.durability}` needs checkpoints, but this server keeps none."
        yield Finding("capability.no_checkpointer", "/durability", message, hint=resources.no_checkpoints)


def budget_too_small(checked: CheckedGraph, resources: Resources) -> Iterator[Finding]:
    """The tokens that one call reserves for its answer are above the budget."""
    limits = checked.graph.limits
    if limits.budget_tokens is None and limits.budget_nano_usd is None:
        return
    for node_id, named, use in _models(checked, resources):
        tokens = use.most_output_tokens(checked.graph.model_defaults)
        cost = _upper_nano_usd(resources, named, use, 0, tokens) if named is not None else None
        over_tokens = limits.budget_tokens is not None and tokens > limits.budget_tokens
        over_cost = limits.budget_nano_usd is not None and cost is not None and cost > limits.budget_nano_usd
        if over_tokens or over_cost:
            message = "The answer alone may exceed the budget, so the call would be refused."
            yield checked.at_node("capability.budget_too_small", node_id, message, place="/config")


CHECKS: dict[str, Callable[[CheckedGraph, Resources], Iterator[Finding]]] = {
    "capability.no_model": no_model,
    "capability.unknown_model": unknown_model,
    "capability.unknown_service_tier": unknown_service_tier,
    "capability.unpriced_model": unpriced_model,
    "capability.unknown_tool": unknown_tool,
    "capability.unknown_retriever": unknown_retriever,
    "capability.bad_options": bad_options,
    "capability.above_cap": above_cap,
    "capability.no_checkpointer": no_checkpointer,
    "capability.budget_too_small": budget_too_small,
}
"""The check of each code."""


def _upper_nano_usd(
    resources: Resources, named: tuple[str, str], use: ModelUse, input_tokens: int, output_tokens: int
) -> int | None:
    """The most that a call of the node can cost on its server and in its tier; null without a price."""
    served = Served(resources.models.server(named[0]).host, use.service_tier)
    return resources.prices.upper_nano_usd(*named, input_tokens, output_tokens, served)


def _models(checked: CheckedGraph, resources: Resources) -> Iterator[tuple[str, tuple[str, str] | None, ModelUse]]:
    """Every node that calls a model, with the provider and model it calls, and its settings of the call."""
    if not checked.model_uses:
        return
    server = resources.models.default()
    for node_id, use in checked.model_uses.items():
        yield node_id, use.named(checked.graph.model_defaults, server), use
