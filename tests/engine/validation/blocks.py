"""Graphs built of sequences, forks, loops, choices and handlers, nested at will."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from engine.graph import JsonObject
from tests.engine.validation.graphs import node

BLOCKS = st.recursive(
    st.just(("step", ())),
    lambda inner: st.tuples(
        st.sampled_from(["sequence", "fork", "loop", "choice", "handled", "rescued"]),
        st.lists(inner, min_size=1, max_size=3),
    ).map(lambda pair: (pair[0], tuple(pair[1]))),
    max_leaves=12,
)


@dataclass
class Builder:
    """Draws blocks; each adds its nodes and edges and says where it is entered and left."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[str] = field(default_factory=list)
    branches: dict[str, list[set[str]]] = field(default_factory=dict)
    """What each fork's branches must hold."""

    def add(self, kind: str, config: JsonObject | None = None, **fields: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes[name] = node(kind, config, **fields)
        return name

    def step(self) -> str:
        return self.add("variable", {"variable_name": "v", "operation": "increment"})

    def link(self, drawing: str) -> None:
        self.edges.append(drawing)

    def build(self, block: Any) -> tuple[str, str]:
        kind, parts = block
        before = self.step()
        after = getattr(self, f"_{kind}")(before, parts)
        return before, after

    def _step(self, before: str, parts: Any) -> str:
        return before

    def _sequence(self, before: str, parts: Any) -> str:
        for part in parts:
            first, last = self.build(part)
            self.link(f"{before}>{first}")
            before = last
        return before

    def _fork(self, before: str, parts: Any) -> str:
        parts = parts if len(parts) > 1 else [*parts, ("step", ())]
        join, branches = self.step(), []
        for part in parts:
            known = set(self.nodes)
            first, last = self.build(part)
            branches.append(set(self.nodes) - known)
            self.link(f"{before}>{first}")
            self.link(f"{last}>{join}")
        self.branches[before] = branches
        return join

    def _loop(self, before: str, parts: Any) -> str:
        loop, after = self.add("loop"), self.step()
        last = self._sequence_from(loop, ":continue", parts)
        self.edges += [f"{before}>{loop}", f"{last}>{loop}", f"{loop}>{after}:exit"]
        return after

    def _choice(self, before: str, parts: Any) -> str:
        labels = [f"l{index}" for index in range(len(parts))]
        cases: Any = [{"label": label, "condition": f"message_count > {index}"} for index, label in enumerate(labels)]
        choice, after = self.add("conditional", {"cases": cases, "default": "other"}), self.step()
        for label, part in zip(labels, parts, strict=True):
            self.link(f"{self._sequence_from(choice, f':{label}', [part])}>{after}")
        self.edges += [f"{before}>{choice}", f"{choice}>{after}"]
        return after

    def _handled(self, before: str, parts: Any) -> str:
        risky, after = self.add("model", on_error={"policy": "route"}), self.step()
        self.edges += [f"{before}>{risky}", f"{risky}>{after}"]
        self.link(f"{self._sequence_from(risky, ':error', parts)}>{after}")
        return after

    def _rescued(self, before: str, parts: Any) -> str:
        risky, handler = self.add("model", on_error={"policy": "route"}), self.add("error_handler", {"retry_count": 1})
        after = self.step()
        self.edges += [f"{before}>{risky}", f"{risky}>{after}", f"{risky}>{handler}:error", f"{handler}>{risky}:retry"]
        self.link(f"{self._sequence_from(handler, ':fallback', parts)}>{after}")
        return after

    def _sequence_from(self, source: str, when: str, parts: Any) -> str:
        first = self.step()
        self.link(f"{source}>{first}{when}")
        return self._sequence(first, parts)

    @classmethod
    def drawn(cls, block: Any) -> "tuple[Builder, str]":
        """The nodes of a whole graph, and the drawing of its edges."""
        builder = cls()
        first, last = builder.build(block)
        return builder, " ".join([f"start>{first}", *builder.edges, f"{last}>end"])
