"""The pictures show what the demo's commands say."""

import xml.etree.ElementTree as ET

import pytest

from docs.generator.pictures import HOME, cost_picture, run_demo, trace_picture


@pytest.mark.slow
def test_the_pictures_are_drawn_from_what_the_demo_says() -> None:
    demo = run_demo()
    trace = "".join(ET.fromstring(trace_picture(demo.trace)).itertext())
    cost = "".join(ET.fromstring(cost_picture(demo.cost)).itertext())
    assert "seal 11/11 spans" in trace
    assert "1,301 → 84" in trace
    assert all(str(row["group"]["template"]) in cost for row in demo.cost["rows"])


@pytest.mark.parametrize("name", ["trace.svg", "cost.svg"])
def test_a_committed_picture_is_an_image_without_scripts_or_links(name: str) -> None:
    tags = {element.tag.rpartition("}")[2] for element in ET.parse(HOME / name).iter()}
    assert tags <= {"svg", "title", "rect", "text", "path"}
