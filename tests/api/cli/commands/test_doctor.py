"""`spanloom doctor`: settings in force and problems, but no secrets."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from api.cli.commands import doctor
from api.service.server import CannotListen
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
    afar = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "SPANLOOM_INGEST_TOKENS": "t" * 32}
    shown = shell.run("doctor", SPANLOOM_PIPELINE="collector", **afar)
    assert (shown.returncode, "SPANLOOM_COLLECTOR_PLAIN_HTTP" in shown.stdout) == (3, True)


def test_doctor_masks_what_urls_hold_besides_the_address(shell: Shell) -> None:
    address = "https://anna:canary-password@models.example/v1?key=canary-key"
    for arguments in (("doctor",), ("doctor", "--json")):
        done = shell.run(*arguments, OPENAI_BASE_URL=address, SPANLOOM_PROMETHEUS_URL=f"{address}&canary=canary")
        assert "canary-" not in done.stdout + done.stderr
        assert "https://***@models.example/v1?key=***" in done.stdout


def test_doctor_sees_a_taken_port(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell.run("doctor", "--json", PORT=str(port))
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert (done.returncode, checks["address"]["level"]) == (3, "fail")
        assert checks["address"]["finding"].endswith("(Address already in use); name another address in SPANLOOM_BIND")
        done = shell.run(
            "doctor", "--json",
            SPANLOOM_PIPELINE="collector", SPANLOOM_INGEST_TOKENS="t" * 32, SPANLOOM_INGEST_BIND=f"127.0.0.1:{port}",
        )  # fmt: skip
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert (done.returncode, checks["Collector"]["level"]) == (3, "fail")


def test_doctor_takes_a_default_port_of_another_program_for_a_warning(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(host: str, port: int, *, variable: str) -> socket.socket:
        raise CannotListen(f"cannot listen on {host}:{port}")

    monkeypatch.setattr(doctor, "listen", refuse)
    monkeypatch.setattr(doctor, "_is_spanloom", lambda url: False)
    report = shell.json("doctor")
    assert (report["ready"], [check["level"] for check in report["checks"] if check["name"] == "address"]) == (
        True,
        ["warn"],
    )


def test_doctor_knows_its_own_service_on_the_port(shell: Shell) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok", "version": "1"}')

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        done = shell.run("doctor", PORT=str(server.server_port))
        server.shutdown()
    assert (done.returncode, "where a spanloom is running" in done.stdout) == (0, True)
