"""Pictures show what was awake when."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

from llm_backend.replay.chart import bar, letters, strip, svg
from llm_backend.replay.result import Span
from tests.unit.replay.bench import run

RESULT = replace(
    run({"at_s": 0, "model": "a"}),
    trace="<t>",
    seconds=100.0,
    spans=(Span("a", 10, 40), Span("b", 52, 58), Span("a", 90, 95)),
)


def test_a_bar_is_as_long_as_its_share() -> None:
    assert [bar(value, 8, 4) for value in (8, 4, 0.01, 0)] == ["████", "██", "█", ""]


def test_a_strip_tells_who_was_awake_for_how_much_of_a_slice() -> None:
    names = letters([RESULT])

    assert names == {"a": "A", "b": "B"}
    assert strip(RESULT, names, 10) == "·AAA·B···A"
    assert strip(RESULT, names, 5) == "AAb·a"


def test_the_drawing_is_xml_with_a_box_a_span() -> None:
    root = ET.fromstring(svg([RESULT, replace(RESULT, policy="fair", spans=())]))  # noqa: S314  # our own
    boxes = [e for e in root.iter() if e.tag.endswith("rect") and e.get("height") == "26"]
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]

    assert len(boxes) == 3 + 2
    assert {"<t>", "a", "b", "fifo", "fair", "0 to 100 s"} <= set(texts)
    assert boxes[1].get("x") == "151.0"
    assert boxes[1].get("width") == "243.0"


def test_nothing_to_draw_is_a_drawing_too() -> None:
    assert ET.fromstring(svg([])).tag.endswith("svg")  # noqa: S314  # our own
