"""Shape errors say what is wrong where: the fields that may stand there, the type that was expected and which came."""

import pytest
from pydantic import ValidationError

from engine.graph import Json
from engine.report import Issue
from engine.request import ExecutionRequest
from engine.validation.pydantic_findings import findings_of
from tests.engine.validation.graphs import document, model, node, report

CHAT = "start>ask ask>end"


def only_error(given: Json) -> Issue:
    """The only error of a document."""
    found = [issue for issue in report(given).issues if issue.severity == "error"]
    assert len(found) == 1, found
    return found[0]


def request_issue(request: Json) -> Issue:
    """The only finding of a request."""
    try:
        ExecutionRequest.model_validate(request)
    except ValidationError as error:
        (finding,) = findings_of(error, request, ExecutionRequest)
        return finding.issue()
    raise AssertionError("the request is correct")


def test_a_mistyped_field_is_compared_with_the_fields_that_may_stand_there() -> None:
    config = only_error(document(CHAT, {"ask": model(system="Be brief.")}))
    assert config.message == "There is no field `system` here."
    assert config.hint.startswith("Did you mean `system_message`? Remove it. Fields here: provider, model, ")
    assert "stream" not in config.hint
    at_node = only_error(document(CHAT, {"ask": {"type": "model", "temprature": 1}}))
    assert at_node.hint == (
        "Remove it. Fields here: id, type, config, name, on_error, retry, timeout_seconds, stream, metadata."
    )


def test_a_field_of_a_union_is_compared_with_the_member_that_was_chosen() -> None:
    policy = only_error(document(CHAT, {"ask": node("model", on_error={"policy": "fail", "lable": "a"})}))
    assert policy.hint == "Remove it. Fields here: policy."


def test_fields_of_the_items_of_a_list_are_compared_with_the_fields_of_an_item() -> None:
    cases: Json = [{"label": "a", "conditon": "true", "condition": "true"}]
    issue = only_error(document("start>c c>end", {"c": ("conditional", {"cases": cases})}))
    assert issue.hint == "Did you mean `condition`? Remove it. Fields here: label, condition."


def test_a_source_without_a_kind_says_so() -> None:
    issue = request_issue({"source": {"template": "universal_chat"}})
    assert (issue.code, issue.pointer) == ("schema.missing_field", "/source")
    assert issue.message == "`source` has no `kind`."
    assert issue.hint == "Set `kind` to one of: chat, definition, graph, template."


def test_a_field_of_a_source_is_compared_with_the_fields_of_its_kind() -> None:
    issue = request_issue({"source": {"kind": "template", "template": "a", "parms": {}}})
    assert issue.hint == "Did you mean `params`? Remove it. Fields here: kind, template, version, params."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (document(CHAT, {"ask": model(temperature="1")}), "`temperature` must be a number, not a string."),
        (document(CHAT, {"ask": model(stop=[1])}), "An item of `stop` must be a string, not an integer."),
        (
            document(limits={"max_tool_calls": 1.5}),
            "`max_tool_calls` must be an integer, not a number with a fraction.",
        ),
        (document(limits={"run_seconds": True}), "`run_seconds` must be a number, not a boolean."),
        (document(description=None), "`description` must be a string, not null."),
        (document(limits=[]), "`limits` must be an object, not an array."),
        (document(CHAT, {"ask": node("model", on_error="fail")}), "`on_error` must be an object, not a string."),
    ],
)
def test_a_wrong_type_names_the_type_that_was_expected_and_the_one_that_came(given: Json, message: str) -> None:
    issue = only_error(given)
    assert (issue.code, issue.message) == ("schema.wrong_type", message)


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (document(name=""), "missing_field", "`name` must not be empty."),
        (document(name=None), "missing_field", "`name` must not be null."),
        (document(edges=[{"source": "start"}]), "missing_field", "The field `target` is missing."),
        (document(CHAT, {"ask": model(temperature=3)}), "out_of_range", "`temperature` must be at most 2."),
        (document(name="n" * 256), "out_of_range", "`name` must be at most 255 characters long."),
        (document(CHAT, {"ask": model(stop=list("abcde"))}), "too_many", "`stop` must have at most 4 items."),
        (document(durability="later"), "out_of_range", "`durability` must be one of 'none', 'exit' or 'step'."),
        (document(schema="spanloom/2"), "version", "The version in `schema` is not known."),
        (document(nodes={"1st": "end"}), "bad_id", "`id` is not a valid name."),
        (
            document(nodes={"x": node("model", on_error={"policy": "hope"})}),
            "out_of_range",
            "`on_error` must have as `policy` one of 'fail', 'continue', 'route'.",
        ),
    ],
)
def test_every_other_message_names_the_field_and_what_it_must_be(given: Json, code: str, message: str) -> None:
    issue = next(issue for issue in report(given).issues if issue.severity == "error")
    assert (issue.code, issue.message) == (f"schema.{code}", message)
