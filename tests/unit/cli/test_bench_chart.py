"""The chart without matplotlib; tests/integration/test_install.py draws one where it is."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from llm_backend.cli.bench_chart import require_matplotlib
from llm_backend.errors import SetupError

pytestmark = pytest.mark.feature("model benchmark")


def test_without_matplotlib_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(SetupError, match="--chart needs matplotlib") as raised:
        require_matplotlib()

    assert (raised.value.hint or "").endswith(" matplotlib")
