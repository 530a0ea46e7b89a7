"""The receiver that a Collector sends to, and a Collector that sends to it and to Jaeger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector.receiver import Receiver, receiving
from tests.conftest import StartCollector
from tests.services.collector.server import CONFIG, Collector
from tests.services.jaeger.server import Jaeger


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of records and webhooks that takes everything, until its `status` is set."""
    with receiving() as running:
        yield running


@pytest.fixture
def collector(start_collector: StartCollector, receiver: Receiver, jaeger: Jaeger) -> Collector:
    """A Collector with the shipped file between our exporters, the receiver and Jaeger."""
    return start_collector(JAEGER_OTLP_ENDPOINT=jaeger.otlp_http, **receiver.environment)


@pytest.fixture
def sampled(tmp_path: Path) -> Path:
    """The shipped file with the other line of traces/store in use: tail sampling is on."""
    lines = CONFIG.read_text().splitlines()
    shipped = next(number for number, line in enumerate(lines) if line.startswith("    traces/store:"))
    lines[shipped] = lines[shipped + 1].replace("# ", "", 1)
    file = tmp_path / "sampled.yaml"
    file.write_text("\n".join(lines))
    return file
