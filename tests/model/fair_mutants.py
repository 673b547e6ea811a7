"""Policies and schedulers that lack one guard of the bound each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf

from llm_backend.switching import events as ev
from llm_backend.switching.entry import Claim, Entry
from llm_backend.switching.fair import Fair
from llm_backend.switching.scheduler import Scheduler


class KeepsForAsLongAsItLikes(Fair):
    def _patience(self) -> float:
        return inf


class ForgetsHowLongItKept(Fair):
    def begin(self, now: float) -> None:
        super().begin(now)
        self._held = dict.fromkeys(self._held, 0.0)


class CountsOnlyForTheFirstInLine(Fair):
    def _patience(self) -> float:
        return self._rules.max_wait_s - min(self._held.values(), default=0.0)


class WakesNobodyWhenATurnIsOver(Fair):
    def wait_until(self, until: float, wanted: Entry) -> None:  # noqa: ARG002  # the signature of the rule that it breaks
        self._holding = self._holding or self.is_urgent(wanted)


class GivesTurnsByAgeAlone(Fair):
    def _place(self, entry: Entry) -> float:
        return self._asked_at(entry)


class GivesTheLatestTheFirstTurn(Fair):
    def line(self) -> Iterator[Entry]:
        return iter([*super().line()][::-1])


class ForgetsLateBatches(Fair):
    def _is_pressing(self, claim: Claim) -> bool:
        return not claim.batch


class PromotesNoBatch(Fair):
    def _next_promotion(self) -> float:
        return inf


class DrainsForEver(Scheduler):
    def _drain_deadlines(self) -> None:
        pass


class SetsNoAlarm(Scheduler):
    def _set_alarm(self) -> None:
        pass


class DrainsForNobody(Scheduler):
    def _send_away(self, entry: Entry) -> None:
        if not entry.leases:
            super()._send_away(entry)


MUTANTS: list[type[Fair | Scheduler]] = [
    mutant
    for mutant in vars().values()
    if isinstance(mutant, type) and mutant.__base__ in {Fair, Scheduler}
]


def with_policy(mutant: type[Fair | Scheduler]) -> Callable[..., Scheduler]:
    """Return what makes a scheduler that is, or decides like, a mutant."""

    def make(models: Iterable[ev.Needs], rules: ev.Rules) -> Scheduler:
        if issubclass(mutant, Scheduler):
            return mutant(models, rules)
        scheduler = Scheduler(models, rules)
        scheduler._policy = mutant(scheduler.entries, scheduler.intents, rules, {})
        return scheduler

    return make
