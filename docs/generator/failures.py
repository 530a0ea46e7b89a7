"""The page of errors and the page of validation rules."""

from docs.generator.markdown import code, first_sentence, page, prose, table
from engine.errors import Failure, ModelFailure, Refusal, SpanloomError
from engine.report import Layer
from engine.validation.rules import RULES


def errors_page() -> str:
    """The tree of errors below `SpanloomError`, the engine's."""
    refusals = f"## Refusals\n\n{_REFUSALS}\n\n{_rows(Refusal)}"
    failures = f"## Failures\n\n{_FAILURES}\n\n{_rows(Failure)}"
    return page("Errors", _INTRO, refusals, failures, f"`{ModelFailure.__name__}`: {prose(ModelFailure.__doc__)}")


def rules_page() -> str:
    """Every rule of the validator, by layer."""
    sections = []
    for layer in Layer:
        rows = [
            (code(rule.code), rule.severity.value, rule.title, rule.hint)
            for rule in RULES.values()
            if rule.layer is layer
        ]
        sections.append(
            f"## {layer.value}\n\n{table(('code', 'severity', 'title', 'what to do'), rows)}" if rows else ""
        )
    return page("Validation rules", _RULES_INTRO, *sections)


def _rows(base: type[SpanloomError]) -> str:
    rows = [
        (code(error.__name__), code(error.code), error.__bases__[0].__name__, first_sentence(error.__doc__))
        for error in _below(base)
    ]
    return table(("class", "code", "below", "default message"), rows)


def _below(base: type[SpanloomError]) -> list[type[SpanloomError]]:
    """The class's subclasses that the engine declares, depth first."""
    own = [error for error in base.__subclasses__() if error.__module__ == SpanloomError.__module__]
    return [found for error in own for found in (error, *_below(error))]


_INTRO = """Every error of spanloom is a `SpanloomError` with a stable `code` and a message without content or
secrets. The same code is the problem type over HTTP, `error.type` on the span, and decides the exit code of a
command."""

_REFUSALS = """Nothing was accepted and nothing is recorded. Over HTTP the `type` of the problem document ends with
the code."""

_FAILURES = """An accepted execution failed. The code is `error_type` on the result, the record and the span. A
`NodeFailure` can be caught by the node's `on_error`, an `ExecutionFailure` cannot."""

_RULES_INTRO = """A document is validated before it runs, and `spanloom validate` shows the same report. A document
with an error does not run; warnings and infos do not stop it. A code never changes its meaning."""
