"""Documents about the state of the service."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The response of a process that is alive."""

    status: Literal["ok"] = "ok"
    version: str


class Check(BaseModel):
    """The result of one check; if it failed, `detail` says what to do."""

    ok: bool
    detail: str | None = None


class Readiness(BaseModel):
    """Whether the service accepts executions, with the result of each check."""

    status: Literal["ready", "not_ready"]
    checks: dict[Literal["database", "schema", "journal", "draining"], Check]
