"""Backends that are slow, silent, broken or take no logs: a short command loses no span without a word, and ends."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.api.cli.shell import Done, Shell
from tests.services.process import free_port

AGENT = ("run", "tool_agent", "-m", "What is 17.5 * 12?")
SPANS = 10


@dataclass(slots=True)
class Backend:
    """What an OTLP backend was sent, and when it says something to it."""

    url: str = ""
    spans: list[str] = field(default_factory=list)
    log_posts: int = 0


@contextmanager
def backend(*, traces: Callable[[], int] = lambda: 200, logs: Callable[[], int] = lambda: 200) -> Iterator[Backend]:
    """A backend that answers posts of traces and logs with these statuses, as late as these functions like."""
    found = Backend()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_traces = self.path.endswith("traces")
            found.log_posts += not is_traces
            status = traces() if is_traces else logs()
            if is_traces and status == 200:
                request = ExportTraceServiceRequest.FromString(body)
                found.spans += [s.name for rs in request.resource_spans for ss in rs.scope_spans for s in ss.spans]
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """The command has gone: say nothing."""

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, name="backend", daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def late(seconds: float, status: int = 200) -> Callable[[], int]:
    """Answer after some seconds."""

    def answer() -> int:
        time.sleep(seconds)
        return status

    return answer


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder of its own."""
    return Shell(tmp_path)


def timed(shell: Shell, *arguments: str, **environment: str) -> tuple[Done, float]:
    """Run a command in a process of its own; returns how it ended and the seconds it took."""
    began = time.monotonic()
    process = shell.start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return Done(process.args, process.returncode, out, err), time.monotonic() - began


@pytest.mark.parametrize("seconds", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_slow_backend_gets_every_span_of_a_short_command(shell: Shell, seconds: int) -> None:
    with backend(traces=late(seconds)) as found:
        done, _ = timed(shell, *AGENT, OTEL_EXPORTER_OTLP_ENDPOINT=found.url)
    assert done.returncode == 0, done.stderr
    assert "210" in done.stdout
    assert len(found.spans) == SPANS, done.stderr
    assert "to be exported, 30 s at most." in done.stderr, "it says what it waits for"
    assert "not taken" not in done.stderr


def test_a_backend_that_is_not_there_costs_two_seconds_and_is_told(shell: Shell) -> None:
    _, without = timed(shell, *AGENT)
    url = f"http://127.0.0.1:{free_port()}"
    done, took = timed(shell, *AGENT, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert done.returncode == 0, "the exit code is that of the execution"
    assert f"{SPANS} of {SPANS} spans were not taken" in done.stderr
    assert took < without + 8, "no longer than the grace, as nothing makes progress"
    assert "Traceback" not in done.stderr


def test_a_backend_that_refuses_is_told_with_its_answer(shell: Shell) -> None:
    with backend(traces=lambda: 503) as found:
        done, _ = timed(shell, *AGENT, OTEL_EXPORTER_OTLP_ENDPOINT=found.url)
    assert done.returncode == 0
    assert f"{SPANS} of {SPANS} spans were not taken" in done.stderr
    assert "(it answers 503)" in done.stderr


@pytest.mark.slow
def test_a_backend_that_never_answers_is_waited_for_half_a_minute_at_most(shell: Shell) -> None:
    with backend(traces=late(300)) as found:
        done, took = timed(shell, *AGENT, OTEL_EXPORTER_OTLP_ENDPOINT=found.url, OTEL_EXPORTER_OTLP_TIMEOUT="100")
    assert done.returncode == 0
    assert f"{SPANS} of {SPANS} spans were not taken" in done.stderr
    assert 30 <= took < 60


def test_a_failed_execution_keeps_its_exit_code_whatever_the_backend_does(shell: Shell) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    arguments = ("run", "document_qa", "-m", "Who?", "--param", "path=absent")
    done, _ = timed(shell, *arguments, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert done.returncode == 1
    assert "were not taken" in done.stderr


@pytest.mark.parametrize("status", [404, 405])
def test_a_backend_that_takes_no_logs_is_asked_once(shell: Shell, status: int) -> None:
    with backend(logs=lambda: status) as found:
        done, _ = timed(shell, *AGENT, OTEL_EXPORTER_OTLP_ENDPOINT=found.url, OTEL_BLRP_SCHEDULE_DELAY="1")
    assert done.returncode == 0
    assert (len(found.spans), found.log_posts) == (SPANS, 1)
    assert str(status) not in done.stderr


@pytest.mark.usefixtures("books_left_open")  # no receiver runs that would store what comes back
def test_what_a_collector_does_not_take_stays_in_the_outbox_and_that_is_told(shell: Shell) -> None:
    settings = {
        "SPANLOOM_PIPELINE": "collector",
        "SPANLOOM_INGEST_TOKENS": "x" * 32,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    done, _ = timed(shell, *AGENT, **settings)
    assert done.returncode == 0
    assert "signals were not taken by the Collector. They stay in the outbox" in done.stderr
    with backend() as found:
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = found.url
        done, _ = timed(shell, *AGENT, **settings)
    assert len(found.spans) == 2 * SPANS, "those of the first command too"
    assert "outbox" not in done.stderr
