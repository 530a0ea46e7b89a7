"""What can go wrong between a client and the service."""

from api.schemas.problems import ProblemDocument
from engine.errors import Refusal, SpanloomError


class ServerProblem(Refusal):
    """The service refused a request.

    `code` is that of the problem document, `status` that of HTTP. `document` is null if the answer was none of ours, as
    that of a proxy; `code` is `unexpected_answer` then.
    """

    def __init__(
        self,
        status: int,
        document: ProblemDocument | None,
        message: str,
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.document = document
        self.retry_after_seconds = retry_after_seconds
        self.code = document.code if document else "unexpected_answer"  # type: ignore[misc]  # each problem has its own


class Unreachable(SpanloomError):
    """The service could not be reached, or the connection broke."""

    code = "unreachable"
