"""Problem documents of the API, by RFC 9457."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.report import ValidationReport


class InputError(BaseModel):
    """One error in a request: its place, as an RFC 6901 pointer into the body, query or path, and the reason."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    place: Literal["body", "query", "path"] = Field(alias="in")
    pointer: str
    code: str
    message: str


class ProblemDocument(BaseModel):
    """An error as RFC 9457 defines it: `code` is for programs, `detail` for people.

    `report` lists the errors of the graph if the code is `invalid_workflow`.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str | None
    correlation_id: str | None
    trace_id: str | None
    execution_id: str | None
    retry_after_seconds: int | None
    errors: list[InputError]
    report: ValidationReport | None
