"""What the tests on a real device write down; here without one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.gpu.results import Results


def results() -> Results:
    made = Results("RTX", 16303, "580.1", "0.33.0", date="2026-01-02")
    made.seconds("qwen-14b", "start", 61.25)
    made.seconds("qwen-14b", "wake", 1.0)
    made.seconds("qwen-14b", "wake", 3.0)
    made.mib("qwen-vl", "awake", 12_010)
    return made


def test_the_tables_have_medians_by_model() -> None:
    made = results()
    made.note("qwen-vl was started anew")

    assert made.markdown().splitlines() == [
        "Measured on RTX (16303 MiB), driver 580.1, vLLM 0.33.0, 2026-01-02; random weights, medians.",
        "",
        "| | qwen-14b | qwen-vl |",
        "|---|---:|---:|",
        "| start, s | 61.25 |  |",
        "| wake, s | 2 |  |",
        "| awake, MiB |  | 12,010 |",
        "",
        "- qwen-vl was started anew",
    ]


def test_both_files_are_written(tmp_path: Path) -> None:
    results().write(tmp_path / "new")

    kept = json.loads((tmp_path / "new/gpu-results.json").read_text())
    assert kept["figures"][0] == {"model": "qwen-14b", "what": "start", "value": 61.25, "unit": "s"}
    assert (tmp_path / "new/gpu-results.md").read_text() == results().markdown()
