"""The digest of a request tells whether an Idempotency-Key is used for the same request."""

from engine.request import ExecutionRequest, digest


def request(**more: object) -> ExecutionRequest:
    """A request that asks one question."""
    source = {"kind": "template", "template": "universal_chat"}
    return ExecutionRequest.model_validate({"source": source, "input": {"message": "hi"}, **more})


def test_the_digest_of_a_request_without_a_user_is_what_it_was_before_there_were_users() -> None:
    assert digest(request()) == "18e5c7232c382359bbfcf10606edd3592c2911f8e1ef60cf812d85222590a9af"


def test_another_user_is_another_request_and_other_tags_are_not() -> None:
    digests = {digest(request()), digest(request(user="ada")), digest(request(user="eve"))}
    assert len(digests) == 3
    assert digest(request(user="ada", tags={"a": "b"}, mode="async")) in digests
