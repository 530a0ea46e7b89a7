"""What holds for every request and answer: ids, hosts, headers, traces, the last resort."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.api.harness import Service, request, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/executions", "/nowhere", "/v1/executions?x=1"])
async def test_every_answer_is_signed(service: Service, path: str) -> None:
    answer = await service.client.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    version, trace_id, span_id, flags = answer.headers["traceresponse"].split("-")
    assert (version, len(trace_id), len(span_id), len(flags)) == ("00", 32, 16, 2)
    assert answer.headers["x-correlation-id"] == trace_id


async def test_the_callers_correlation_id_stays_with_the_execution(service: Service) -> None:
    answer = await service.client.post("/v1/executions", json=request(), headers={"X-Correlation-ID": "job:7"})
    assert answer.headers["x-correlation-id"] == answer.json()["metadata"]["correlation_id"] == "job:7"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ü"])
async def test_a_correlation_id_of_another_form_is_replaced(service: Service, given: str) -> None:
    answer = await service.client.get("/nowhere", headers={b"X-Correlation-ID": given.encode()})
    assert answer.headers["x-correlation-id"] == answer.json()["correlation_id"] == answer.json()["trace_id"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", ""])
async def test_a_name_of_another_host_is_refused(service: Service, host: str) -> None:
    answer = await service.client.get("/v1/executions", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.2", "[::1]:8000", "spanloom.internal:80"])
async def test_loopback_names_and_listed_ones_are_answered(migrated_sqlite_url: str, host: str) -> None:
    async with running(migrated_sqlite_url, allowed_hosts=["Spanloom.internal"]) as service:
        assert (await service.client.get("/healthz", headers={"Host": host})).status_code == 200


async def test_the_host_of_the_public_url_is_answered(migrated_sqlite_url: str) -> None:
    async with running(migrated_sqlite_url, public_url="https://Flows.example:8443/spanloom") as service:
        for host, status in (("flows.example", 200), ("flows.example:8443", 200), ("other.example", 421)):
            assert (await service.client.get("/healthz", headers={"Host": host})).status_code == status


async def test_a_fault_tells_its_correlation_id_and_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("sk-canary-1234")

    monkeypatch.setattr(service.runtime.database, "read", broken)
    answer = await service.client.get("/v1/executions")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "canary" not in answer.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert vars(record)["correlation_id"] == answer.headers["x-correlation-id"]


async def test_an_execution_joins_the_trace_of_its_caller(service: Service) -> None:
    spans = InMemorySpanExporter()
    service.runtime.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    answer = await service.client.post("/v1/executions", json=request(), headers=PARENT)
    assert answer.json()["metadata"]["trace_id"] == TRACE
    assert answer.headers["traceresponse"].split("-")[1] == TRACE
    found = (await service.client.get(f"/v1/executions/{answer.json()['execution_id']}")).json()
    assert (found["trace_id"], found["seal"]["complete"]) == (TRACE, True)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    root, server = by_name["invoke_workflow ask"], by_name["POST /v1/executions ask"]
    assert root.parent is not None
    assert server.parent is not None
    assert (root.parent.span_id, server.parent.span_id) == (server.context.span_id, 0xB7AD6B7169203331)


@pytest.mark.parametrize(("setting", "links"), [("link", [TRACE]), ("ignore", [])])
async def test_the_trace_of_a_caller_may_be_linked_or_ignored(
    migrated_sqlite_url: str, setting: str, links: list[str]
) -> None:
    spans = InMemorySpanExporter()
    async with running(migrated_sqlite_url, traceparent=setting) as service:
        service.runtime.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
        answer = await service.client.post("/v1/executions", json=request(), headers=PARENT)
        assert answer.json()["metadata"]["trace_id"] != TRACE
        [root] = [span for span in spans.get_finished_spans() if span.name == "invoke_workflow ask"]
        assert [f"{link.context.trace_id:032x}" for link in root.links] == links
