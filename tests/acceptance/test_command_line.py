"""The installed command against a model server over HTTP: what a user types, sees, and is charged."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest

from tests.services.aimock.server import ModelServer

pytestmark = pytest.mark.node

SPANLOOM = str(Path(sys.executable).with_name("spanloom"))
SECONDS = 60
HELLO = "Hello there, this is an answer of several words."
USAGE = {"prompt_tokens": 1_237, "completion_tokens": 419}
# Provider as genai-prices calls it -> variable of the address, of the key, model.
PROVIDERS = {
    "openai": ("OPENAI_BASE_URL", "OPENAI_API_KEY", "gpt-4.1-mini"),
    "anthropic": ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "claude-haiku-4-5"),
    "google": ("GOOGLE_GEMINI_BASE_URL", "GOOGLE_API_KEY", "gemini-2.5-flash"),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "SPANLOOM_DATABASE_URL": f"sqlite:///{tmp_path / 'books.db'}"}


def reaching(server: ModelServer, provider: str) -> dict[str, str]:
    """The environment of a user of the provider at this address."""
    address, key, _ = PROVIDERS[provider]
    return {address: server.openai_url if provider == "openai" else server.base_url, key: "sk-test"}


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_a_run_costs_what_genai_prices_gives_for_the_usage(
    aimock: ModelServer, environment: dict[str, str], provider: str
) -> None:
    environment |= reaching(aimock, provider)
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": HELLO, "usage": USAGE}})

    ran = spanloom("run", "universal_chat", "--input", '{"message": "hi"}', environment=environment)
    booked = json.loads(spanloom("cost", "--json", environment=environment).stdout)["total"]

    assert ran.stdout.strip() == HELLO
    assert len(aimock.journal()) == booked["model_calls"] == 1
    assert booked["unpriced_calls"] == 0
    assert booked["cost_nano_usd"] == cost_nano_usd(provider)


def cost_nano_usd(provider: str) -> int:
    price = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=USAGE["prompt_tokens"], output_tokens=USAGE["completion_tokens"]),
        PROVIDERS[provider][2],
        provider_id=provider,
        genai_request_timestamp=datetime.now(UTC),
    )
    nano = price.total_price * Decimal(10**9)
    assert nano == int(nano)
    return int(nano)


def test_tokens_are_shown_as_they_arrive(aimock: ModelServer, environment: dict[str, str]) -> None:
    environment |= reaching(aimock, "openai")
    aimock.answer({"match": {"userMessage": "hi"}, "response": {"content": HELLO * 20}, "latency": 100})

    command = [SPANLOOM, "run", "universal_chat", "--message", "hi"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 4_096).decode()
        was_running = process.poll() is None
        rest = process.stdout.read().decode()

    assert was_running
    assert len(first) < len(HELLO * 20) / 2
    assert (first + rest).strip() == HELLO * 20
    assert process.returncode == 0


def test_a_wrong_key_gives_a_clear_message_and_a_failed_record(
    aimock: ModelServer, environment: dict[str, str]
) -> None:
    environment |= reaching(aimock, "openai")
    aimock.fail_next(401, message="Incorrect API key provided: sk-test", kind="invalid_request_error")

    ran = spanloom("run", "universal_chat", "--message", "hi", environment=environment, fails=True)
    booked = json.loads(spanloom("cost", "--json", environment=environment).stdout)["total"]

    assert "check the provider's API key" in ran.stderr
    assert "sk-test" not in ran.stderr
    assert (booked["executions_failed"], booked["cost_nano_usd"]) == (1, 0)


def test_questions_about_a_folder_of_the_users_own_need_no_key(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tower.md").write_text("# The tower\n\nThe clock hangs in the north tower.\n")
    asked = ("--param", f"path={tmp_path}", "--input", '{"message": "Where does the clock hang?"}')

    ran = spanloom("run", "document_qa", *asked, environment=environment)

    assert "north tower" in ran.stdout
    assert "tower.md" in ran.stdout


def spanloom(*arguments: str, environment: dict[str, str], fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SPANLOOM, *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done
