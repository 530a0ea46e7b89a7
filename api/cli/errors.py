"""How a command fails: a sentence on stderr, or a problem document on stdout with `--json`, and an exit code."""

import logging
import sys
from typing import Any, NoReturn

from typer import TyperException
from typer.core import TyperGroup

from api.cli.exit_codes import BAD_NEWS, INTERNAL, NOT_READY, REFUSED, WRONG_USE
from engine.errors import AttemptLost, Draining, Refusal, SpanloomError, Unavailable
from engine.security.printable import one_line

log = logging.getLogger(__name__)


class WrongUse(SpanloomError):
    """The command was given something it cannot use."""

    code = "wrong_use"


_EXIT_CODES = {WrongUse.code: WRONG_USE, "invalid_settings": WRONG_USE, "cannot_listen": NOT_READY}
"""By the error's code."""

_OWN_PROBLEMS = {
    WrongUse.code: (400, "The command was used wrongly"),
    "invalid_settings": (500, "A setting is not valid"),
    "cannot_listen": (503, "The address cannot be used"),
}
"""Status and title of the problems that HTTP does not have."""


def report(error: Exception, *, as_json: bool) -> int:
    """Print the error and return the exit code."""
    if isinstance(error, TyperException):
        return _report_usage(error, as_json=as_json)
    if isinstance(error, SpanloomError):
        if as_json:
            _print_problem(error.code, error.message, error)
        else:
            print(f"spanloom: {one_line(error.message)}", file=sys.stderr)
        log.debug("the command failed", exc_info=error)
        return exit_code(error)
    return _report_internal(error, as_json=as_json)


def wants_json(command: Any, arguments: list[str]) -> bool:
    """Whether the arguments give `--json` to the command they name, even if that command refuses other arguments.

    `--json` as the value of an option is not the flag. If there is no such command, any `--json` counts.
    """
    lenient = {"resilient_parsing": True, "ignore_unknown_options": True}
    context = command.make_context(command.name, [*arguments], **lenient)
    while isinstance(context.command, TyperGroup) and (rest := [*context._protected_args, *context.args]):
        inner = context.command.get_command(context, rest[0])
        if inner is None:
            return "--json" in rest or bool(context.params.get("json"))
        context = inner.make_context(rest[0], rest[1:], parent=context, **lenient)
    return bool(context.params.get("json"))


def exit_code(error: SpanloomError) -> int:
    """The exit code for one of spanloom's errors."""
    if isinstance(error, Unavailable | Draining | AttemptLost):
        return NOT_READY
    if isinstance(error, Refusal):
        return REFUSED
    return _EXIT_CODES.get(error.code, BAD_NEWS)


def wrong_use(message: str) -> NoReturn:
    """Raise `WrongUse` with this message."""
    raise WrongUse(message)


def _report_usage(error: TyperException, *, as_json: bool) -> int:
    """Report an unknown command or option, or a value of the wrong type."""
    if as_json:
        _print_problem(WrongUse.code, error.format_message())
    else:
        error.show()  # type: ignore[attr-defined]  # every error that typer raises has it
    return error.exit_code


def _report_internal(error: Exception, *, as_json: bool) -> int:
    """Report a fault in spanloom. The traceback is logged at level debug."""
    sentence = (
        f"internal error, {type(error).__name__}: {error}; "
        "run the command with SPANLOOM_LOG_LEVEL=debug and report the traceback"
    )
    if as_json:
        _print_problem("internal_error", sentence)
    else:
        print(f"spanloom: {one_line(sentence)}", file=sys.stderr)
    log.debug("the command failed", exc_info=error)
    return INTERNAL


def _print_problem(code: str, detail: str, error: SpanloomError | None = None) -> None:
    """Print the problem document that HTTP would answer with (RFC 9457)."""
    from api.cli.terminal import show_json
    from api.http.problems import TITLES, Problem, problem_of

    if error is not None and error.code in TITLES:
        document = problem_of(error).document(None)
    else:
        status, title = _OWN_PROBLEMS.get(code, TITLES["internal_error"])
        own = {"type": f"urn:spanloom:problem:{code}", "title": title, "status": status, "code": code}
        document = Problem("internal_error", detail).document(None).model_copy(update=own)
    show_json(document.model_dump(mode="json"))
