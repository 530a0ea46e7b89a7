"""The result of validation: a `ValidationReport` of `Issue`s."""

from enum import StrEnum

from pydantic import Field

from engine.graph import Document, JsonObject

MAX_ISSUES = 100


class Severity(StrEnum):
    """A graph with an error can be neither stored nor run; warnings and infos prevent nothing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Layer(StrEnum):
    """The part of validation that a rule belongs to; `internal` marks a rule that crashed."""

    SCHEMA = "schema"
    STRUCTURE = "structure"
    SECURITY = "security"
    CAPABILITY = "capability"
    INTERNAL = "internal"


class Issue(Document):
    """One finding of a rule. Its texts never quote a value, which could be content or a secret."""

    code: str
    severity: Severity
    layer: Layer
    pointer: str
    """JSON Pointer (RFC 6901) into the document as sent."""
    node_id: str | None = None
    edge_id: str | None = None
    message: str
    hint: str
    """The next step."""
    data: JsonObject = Field(default_factory=dict)
    """Numbers and names from the message, for programs."""


class Counts(Document):
    """Issues by severity, including those left out of the list; at most 1,000 are counted per rule."""

    error: int = 0
    warning: int = 0
    info: int = 0


class ValidationReport(Document):
    """All findings about one document."""

    valid: bool
    """The document has no errors."""
    content_hash: str | None
    """Null after a schema error."""
    layers: list[Layer]
    """The layers that ran."""
    issues: list[Issue]
    """Errors first, then by layer and place; at most 100."""
    counts: Counts
    truncated: bool = False
    """The list leaves some issues out."""

    def summary(self) -> str:
        """The errors in one sentence, for the message of an exception."""
        found = [issue for issue in self.issues if issue.severity == Severity.ERROR]
        if not found:
            return "no errors"
        errors = "1 error" if self.counts.error == 1 else f"{self.counts.error} errors"
        first = found[0]
        rest = "" if self.counts.error == 1 else f" And {self.counts.error - 1} more."
        return f"{errors}: {first.code} at {first.pointer or '/'}: {first.message} {first.hint}{rest}"
