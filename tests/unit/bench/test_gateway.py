from __future__ import annotations

import pytest

from bench.gateway import STARTS, chosen, parsed
from bench.scenarios import SCENARIOS


def test_all_is_measured_unless_something_is_named() -> None:
    names, scenarios = chosen(set())

    assert names == list(STARTS)
    assert scenarios == list(SCENARIOS)


def test_targets_and_scenarios_are_named_alike() -> None:
    names, scenarios = chosen({"nginx", "ours", "request-64"})

    assert names == ["ours", "nginx"]
    assert [s.name for s in scenarios] == ["request-64"]


def test_a_target_without_a_scenario_is_not_started() -> None:
    names, _ = chosen({"cache-redis"})

    assert names == ["ours-redis"]


def test_an_unknown_name_is_refused_with_those_that_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parsed(["--only", "ours,haproxy"])

    said = capsys.readouterr().err
    assert "unknown: haproxy" in said
    assert "vllm-router" in said
