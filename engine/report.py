"""The result of validation: a `ValidationReport` of `Issue`s."""

from enum import StrEnum

from pydantic import Field

from engine.graph import Document, JsonObject

MAX_ISSUES = 100


class Severity(StrEnum):
    """An error stops writing and running; warnings and infos stop nothing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Layer(StrEnum):
    """The kind of knowledge a rule needs; `internal` marks a rule that crashed."""

    SCHEMA = "schema"
    STRUCTURE = "structure"
    SECURITY = "security"
    CAPABILITY = "capability"
    INTERNAL = "internal"


class Issue(Document):
    """One thing that is wrong or worth knowing. No text of it quotes a value: that may be content or a secret."""

    code: str
    severity: Severity
    layer: Layer
    pointer: str
    """RFC 6901, into the document as sent."""
    node_id: str | None = None
    edge_id: str | None = None
    message: str
    hint: str
    """What to do."""
    data: JsonObject = Field(default_factory=dict)
    """Numbers and names."""


class Counts(Document):
    """How many issues there are of each severity, also of those left out of the list; of one rule at most 1,000."""

    error: int = 0
    warning: int = 0
    info: int = 0


class ValidationReport(Document):
    """All findings about one document."""

    valid: bool
    """There is no error."""
    content_hash: str | None
    """Null after a schema error."""
    layers: list[Layer]
    """The layers that ran."""
    issues: list[Issue]
    """Errors first, then by layer and place; at most 100."""
    counts: Counts
    truncated: bool = False
    """There are more issues than are listed."""

    def summary(self) -> str:
        """One sentence for the message of an exception."""
        found = [issue for issue in self.issues if issue.severity == Severity.ERROR]
        if not found:
            return "no errors"
        errors = "1 error" if self.counts.error == 1 else f"{self.counts.error} errors"
        first = found[0]
        rest = "" if self.counts.error == 1 else f" And {self.counts.error - 1} more."
        return f"{errors}: {first.code} at {first.pointer or '/'}: {first.message} {first.hint}{rest}"
