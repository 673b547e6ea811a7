"""The benchmark of switches: its arithmetic, its bars, and one round of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import page_cache, standby, switching
from bench.processes import Missing
from bench.switching import MOST_SLEEP_WAKE_S, PARTS, Sample, added_s, cases, missed, switched


def test_what_is_added_is_the_median_of_the_differences() -> None:
    samples = [Sample("", 1.0, 1.1), Sample("", 5.0, 5.2), Sample("", 1.0, 9.0)]

    assert added_s(samples) == pytest.approx(0.2)


def test_a_bar_that_is_missed_is_named() -> None:
    (case,) = cases(["sleep-wake"])

    assert missed([Sample(case.name, 1.0, 1.0 + MOST_SLEEP_WAKE_S * 0.9)]) == []
    assert missed([Sample(case.name, 1.0, 1.0 + MOST_SLEEP_WAKE_S * 1.1)]) == [case.name]


def test_one_round_each_way_takes_what_the_engines_take() -> None:
    (case,) = cases(["sleep-wake"])

    (sample,) = switched(case, 1)

    engines_s = switching.SLEEPING_S + switching.WAKING_S
    assert sample.alone_s > engines_s
    assert sample.gateway_s > engines_s


def test_parts_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        switching.parsed(["--only", "sleep-wake,nonsense"])

    assert "there is no part nonsense" in capsys.readouterr().err
    assert switching.parsed([]).only == list(PARTS)


def test_what_a_standby_saves_is_a_share_of_the_cold_start() -> None:
    rounds = [standby.Round(40, 30, 4), standby.Round(50, 25, 5), standby.Round(30, 29, 3)]

    assert standby.saved(rounds) == pytest.approx(1 - 29 / 40)
    assert standby.saved(rounds, "forked_s") == pytest.approx(0.9)
    assert not standby.pays(rounds)


def test_what_reading_ahead_saves_is_the_median_of_the_differences() -> None:
    rounds = [page_cache.Round(30, 20, 1, 9), page_cache.Round(31, 30, 1, 9)]

    assert page_cache.saved_s(rounds) == pytest.approx(5.5)


def test_without_vllm_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLM_TEST_VLLM_PYTHON", str(tmp_path / "python"))

    with pytest.raises(Missing, match="make vllm-cpu"):
        standby.measured(1)
