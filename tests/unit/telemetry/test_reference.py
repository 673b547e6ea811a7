"""docs/reference/metrics.md says what the gateway exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llm_backend.telemetry.reference import (
    LABELS,
    OPEN_TELEMETRY,
    OPEN_TELEMETRY_LABELS,
    abouts,
    render,
    unit_of,
)

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def test_the_page_is_what_the_definitions_say() -> None:
    command = [sys.executable, "-m", "llm_backend.telemetry.reference"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert written == render()
    assert PAGE.read_text(encoding="utf-8") == written, (
        "write it anew: python -m llm_backend.telemetry.reference > docs/reference/metrics.md"
    )


def test_every_label_is_explained_and_no_other() -> None:
    assert {label for about in abouts() for label in about.labels} == LABELS.keys()


def test_what_opentelemetry_names_is_there() -> None:
    names = {about.name for about in abouts()}
    assert {name for _, ours, _ in OPEN_TELEMETRY for name in ours.split(", ")} <= names
    assert {name for _, ours, _ in OPEN_TELEMETRY_LABELS for name in ours.split(", ")} <= (
        LABELS.keys()
    )


def test_every_unit_is_a_base_unit() -> None:
    units = {about.name: unit_of(about) for about in abouts()}
    assert units["llm_switch_saved_seconds_total"] == "seconds"
    assert units["llm_device_memory_bytes"] == "bytes"
    assert units["llm_requests_total"] == ""
    assert set(units.values()) == {"", "seconds", "bytes"}
