"""The chart without matplotlib; tests/integration/test_install.py draws one where it is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from llm_backend.cli.bench_chart import require
from llm_backend.errors import SetupError

pytestmark = pytest.mark.feature("model benchmark")


def test_without_matplotlib_it_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(SetupError, match="--chart needs matplotlib") as raised:
        require(tmp_path / "chart.png")

    assert (raised.value.hint or "").endswith(" matplotlib")
