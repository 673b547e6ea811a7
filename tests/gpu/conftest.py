"""A real CUDA device with a real vLLM, or the reason why there is none.

`make gpu` runs these tests; no other tier collects them. `LLM_TEST_GPU_PYTHON` names the interpreter
that has vLLM; what is measured goes to `LLM_GPU_RESULTS`, by default `test-output/gpu`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.card import DEVICE, Card, driver_version, found_vllm, interpreters, new_probe
from tests.gpu.results import Results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Card]:
    probe = new_probe()
    try:
        reading = probe.read(DEVICE)
        if reading is None:
            pytest.skip(f"there is no CUDA device: {probe.unavailable or 'NVML shows none'}")
        named = os.environ.get("LLM_TEST_GPU_PYTHON")
        found = {path: found_vllm(path) for path in interpreters(ROOT, named)}
        python = next((path for path, version in found.items() if version), None)
        if python is None:
            tried = ", ".join(map(str, found)) or named
            pytest.skip(f"no vLLM for CUDA in {tried}: name its Python in LLM_TEST_GPU_PYTHON")
        results = Results(reading.name, reading.total_mib, driver_version(), found[python])
        yield Card(python, tmp_path_factory.mktemp("gpu"), probe, results)
        results.write()
    finally:
        probe.close()
