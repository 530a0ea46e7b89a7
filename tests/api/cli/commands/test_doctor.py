"""`spanloom doctor`: settings in force and problems, but no secrets."""

import json

from tests.api.cli.shell import Shell


def test_doctor_shows_the_settings_in_force_but_no_secrets(shell: Shell) -> None:
    done = shell.run(
        "doctor", OPENAI_API_KEY="sk-verysecret", SPANLOOM_DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/n"
    )
    assert done.returncode == 3
    assert "OPENAI_API_KEY=present" in done.stdout
    assert "127.0.0.1:1/n cannot be reached" in done.stdout
    assert "verysecret" not in done.stdout
    assert "hidden" not in done.stdout
    assert shell.json("doctor")["ready"] is True


def test_doctor_is_not_ready_for_the_collector_without_an_ingest_token(shell: Shell) -> None:
    done = shell.run("doctor", "--json", SPANLOOM_PIPELINE="collector")
    report = json.loads(done.stdout)
    failed = {check["name"]: check["finding"] for check in report["checks"] if check["level"] == "fail"}
    assert (done.returncode, report["ready"], list(failed)) == (3, False, ["Collector"])
    assert "SPANLOOM_INGEST_TOKENS" in failed["Collector"]
    ready = shell.run("doctor", SPANLOOM_PIPELINE="collector", SPANLOOM_INGEST_TOKENS="t" * 32)
    assert (ready.returncode, ready.stdout.splitlines()[-1]) == (0, "Ready.")
