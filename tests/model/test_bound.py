"""The bound of `fair` on everybody's wait, over random schedules.

SCHEDULES=N in the environment tries so many; 10,000 take two minutes. The second half takes away
what guards the bound, one guard at a time, and shows that it breaks.
"""

from __future__ import annotations

import os

import pytest

from llm_backend.switching.fair import Fair
from llm_backend.switching.scheduler import Scheduler
from tests.model.fair_mutants import MUTANTS, with_policy
from tests.model.parts import Violation
from tests.model.schedules import Schedule

pytestmark = pytest.mark.feature("fair policy")

SCHEDULES = int(os.environ.get("SCHEDULES", "1000"))


def test_nobody_waits_longer_than_the_bound() -> None:
    assert sum(Schedule(seed).run() > 0 for seed in range(SCHEDULES)) == SCHEDULES


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_bound_breaks_without_its_guards(mutant: type[Fair | Scheduler]) -> None:
    make = with_policy(mutant)

    with pytest.raises(Violation):
        [Schedule(seed, make).run() for seed in range(10_000)]
