"""A load that is longer than the SDKs wait: what they hear keeps their requests alive.

Everything is as in past_limits.py, in a twentieth of the time: the limits of the clients are set
to less than the load takes, and to more than the ten seconds between two signs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.integration.patience import Case, Told, cases, needs_node, through_a_load

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    needs_node,
    pytest.mark.feature("patience of SDKs"),
]

LOAD_S = 28.0
LIMIT_S = 11.0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Case, Told]:
    return through_a_load(tmp_path_factory.mktemp("patience"), LOAD_S, int(1000 * LIMIT_S))


@pytest.mark.parametrize("case", cases("stream"), ids=str)
def test_a_stream_outlives_the_limit(told: Mapping[Case, Told], case: Case) -> None:
    assert told[case].error is None
    assert told[case].text
    assert told[case].seconds > LOAD_S - 5


@pytest.mark.parametrize("case", cases("muted"), ids=str)
def test_without_signs_it_does_not(told: Mapping[Case, Told], case: Case) -> None:
    assert told[case].text is None
    assert told[case].error
    assert told[case].seconds < LOAD_S - 5


@pytest.mark.parametrize("case", cases("plain"), ids=str)
def test_a_plain_answer_comes_since_the_sdk_asks_again(
    told: Mapping[Case, Told], case: Case
) -> None:
    assert told[case].error is None
    assert told[case].text
