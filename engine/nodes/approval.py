"""The node type `approval`: asks a person and continues with the first answer."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import NAMESPACE_URL

from pydantic import Field
from uuid_utils.compat import uuid5

from engine.errors import ApprovalTimeout
from engine.events import EventType
from engine.expressions.prompts import parse as parse_prompt
from engine.expressions.prompts import parse_json
from engine.graph import Id, Json, JsonObject, Node
from engine.nodes.base import JSON_PROMPT, PROMPT, ConfigFault, NodeBase, NodeConfig, NodeResult, Park, with_data
from engine.pause import Answer
from engine.result import Approval
from engine.runtime.state import WorkflowState
from engine.tracing import semconv

if TYPE_CHECKING:
    from engine.runtime.visit import Visit

APPROVAL_NAMESPACE = uuid5(NAMESPACE_URL, "urn:spanloom:approval")


class ApprovalConfig(NodeConfig):
    """The question, the possible answers and the time limit."""

    prompt: Annotated[str, PROMPT]
    """The question."""
    payload: Annotated[Json, JSON_PROMPT] = None
    """Data that is shown with the question."""
    choices: list[Id] = Field(default_factory=lambda: ["approved", "rejected"], min_length=2, max_length=8)
    """The possible answers; each is a label."""
    response_schema: JsonObject | None = None
    """JSON Schema of the answer's `data`."""
    answer_within_seconds: float = Field(default=86_400, ge=1, le=2_592_000)
    """Time limit for the answer."""
    on_timeout: Id | None = None
    """Label to follow when nobody answers in time; null fails the node."""


class ApprovalNode(NodeBase[ApprovalConfig]):
    """Parks with a question. The visit continues with the answer or when the time limit has passed."""

    type = "approval"
    title = "Approval"
    description = "Asks a person and pauses the execution until the answer. Labels: the choices and `on_timeout`."
    category = "flow"
    Config = ApprovalConfig
    must_route = True
    bounds_cycle = True
    needs_checkpoint = True
    output_schema = {
        "type": "object",
        "properties": {"choice": {"type": "string"}, "data": {}, "answered_by": {"type": ["string", "null"]}},
    }

    def __init__(self, node: Node, config: ApprovalConfig) -> None:
        super().__init__(node, config)
        self._prompt = parse_prompt(config.prompt)
        self._payload = parse_json(config.payload) if config.payload is not None else None

    @classmethod
    def check(cls, config: ApprovalConfig) -> Iterator[ConfigFault]:
        for index, choice in enumerate(config.choices):
            if choice in config.choices[:index]:
                yield ConfigFault("The same choice is listed twice.", f"/choices/{index}")

    @classmethod
    def own_labels(cls, config: ApprovalConfig) -> Mapping[str, str]:
        labels = {f"/choices/{index}": choice for index, choice in enumerate(config.choices)}
        return labels if config.on_timeout is None else {**labels, "/on_timeout": config.on_timeout}

    @classmethod
    def may_park(cls, config: ApprovalConfig) -> bool:
        return True

    @classmethod
    def output_schema_for(cls, config: ApprovalConfig) -> JsonObject:
        return with_data(cls.output_schema, config.response_schema if config.response_schema is not None else {})

    @classmethod
    def json_schemas(cls, config: ApprovalConfig) -> Mapping[str, JsonObject]:
        return {} if config.response_schema is None else {"/response_schema": config.response_schema}

    async def run(self, state: WorkflowState, visit: "Visit") -> NodeResult:
        visit.span[semconv.APPROVAL_ID] = question_id = approval_id(visit)
        waited = time.time() - visit.parked["since"] if visit.parked is not None else 0.0
        answer = visit.answer_to(question_id)
        if answer is not None:
            return _answered(answer, waited, visit)
        if visit.parked is None:
            return self._ask(time.time(), self._approval(visit), visit)
        if not visit.is_due:
            question = Approval.model_validate(visit.parked["approval"], strict=False)
            return self._ask(visit.parked["since"], question, visit)
        if self.config.on_timeout is None:
            raise ApprovalTimeout
        return _answered(Answer(self.config.on_timeout), waited, visit)

    def _approval(self, visit: "Visit") -> Approval:
        return Approval(
            approval_id=approval_id(visit),
            node_id=self.id,
            path=visit.path,
            prompt=self._prompt.render(visit.names),
            payload=self._payload.render(visit.names) if self._payload is not None else None,
            choices=self.config.choices,
            response_schema=self.config.response_schema,
            expires_at=datetime.fromtimestamp(time.time() + self.config.answer_within_seconds, UTC),
        )

    @staticmethod
    def _ask(since: float, approval: Approval, visit: "Visit") -> NodeResult:
        document = approval.model_dump(mode="json")
        asked = {key: value for key, value in document.items() if key not in ("node_id", "path")}
        visit.emit(EventType.APPROVAL_REQUESTED, asked)
        return NodeResult(output={}, park=Park(since, approval.expires_at.timestamp(), document))


def approval_id(visit: "Visit") -> str:
    """The id of the question: the same on every attempt and after every crash, so that asking again changes nothing."""
    return str(uuid5(APPROVAL_NAMESPACE, f"{visit.context.execution_id}/{visit.path}/{visit.number}"))


def _answered(answer: Answer, waited: float, visit: "Visit") -> NodeResult:
    visit.span.update({semconv.APPROVAL_CHOICE: answer.choice, semconv.APPROVAL_WAIT: max(0.0, waited)})
    return NodeResult(
        output={"choice": answer.choice, "data": answer.data, "answered_by": answer.answered_by}, label=answer.choice
    )
