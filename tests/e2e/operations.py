"""Random operations on a running compose set-up: what people do, and what goes wrong.

Each ends with the wanted state reached again, or fails. What the operations did behind the
gateway's back is written down, for whoever reads Docker's events afterwards.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import httpx2

from tests.e2e.events import Event, EventLog
from tests.e2e.stack import ENGINES, GROUND, PROJECT, Stack, docker
from tests.harness import eventually

MODELS: Final = tuple(ENGINES)
GATEWAY: Final = f"{PROJECT}-gateway-1"
BACK_S: Final = 30.0
"""How long the wanted state may take to return, on a slow machine."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """A start that was not the gateway's.

    Attributes:
        name: The container.
        began: Before it, in seconds since the epoch.
        done: After it.
        seen: When the gateway could see it; later than `done` where there was none.
    """

    name: str
    began: float
    done: float
    seen: float


class Operations:
    """Does things to a set-up.

    Args:
        stack: A set-up that runs, with one model awake.
        log: Records its events.
        rng: Decides what is done to which model.

    Attributes:
        told: What was done, in words.
        by_hand: The starts that were not the gateway's.
    """

    def __init__(self, stack: Stack, log: EventLog, rng: random.Random) -> None:
        self.told: list[str] = []
        self.by_hand: list[ByHand] = []
        self._stack = stack
        self._log = log
        self._rng = rng

    # What people do

    def ask(self) -> None:
        self.ask_for(self._pick("ask"))

    def ask_again(self) -> None:
        self.ask_for(self._awake("ask again"))

    def switch(self) -> None:
        answer = self._switch(self._pick("switch to"))
        assert answer.status_code == 200, answer.text

    def race(self) -> None:
        """Requests for several models and an operator, all at once."""
        asked = self._rng.choices(MODELS, k=3)
        wished = self._pick(f"ask {', '.join(asked)} and switch to")
        with ThreadPoolExecutor() as pool:
            switching = pool.submit(self._switch, wished)
            list(pool.map(self.ask_for, asked))
        assert switching.result().status_code == 200, switching.result().text

    def race_of_operators(self) -> None:
        """Each replaces those before it."""
        wished = self._rng.sample(MODELS, k=3)
        self._tell(f"switch to {', '.join(wished)} at once")
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(self._switch, wished))
        statuses = [answer.status_code for answer in answers]
        assert 200 in statuses
        assert {*statuses} <= {200, 409}
        self.ask_for(self._awake())

    # What goes wrong with an engine

    def kill_awake(self) -> None:
        model = self._awake("kill")
        docker("kill", ENGINES[model])
        self._is_served(model)

    def kill_loading(self) -> None:
        began = time.time()
        model = self._begin_switch("begin a switch to {}, kill its engine")
        with contextlib.suppress(AssertionError):  # it may not have come up so far
            self._log.wait_for(_event("start", model), after=began, within_s=1)
        docker("kill", ENGINES[model], check=False)
        self._is_served(model)

    def exhaust_memory(self) -> None:
        model = self._awake("exhaust the memory of")
        docker("kill", "--signal", "USR1", ENGINES[model])
        eventually(lambda: "out of memory" in (self._health(model)["reason"] or ""), BACK_S)
        self._is_served(model)

    def exhaust_memory_loading(self) -> None:
        model = self._pick("exhaust the memory at the start of", asleep=True)
        with self._faults(model, "--fill-mib", "512"):
            answer = self._stack.chat(model)
        assert answer.status_code == 503, answer.text
        assert "out of memory" in answer.json()["error"]["message"], answer.text
        self._is_served(model)

    def ignore_sigterm(self) -> None:
        model = self._pick("have SIGTERM ignored by", asleep=True)
        with self._faults(model, "--ignore-sigterm"):
            self.ask_for(model)
        self.ask_for(self._other(model))

    def pause(self) -> None:
        """A request that waits for a frozen engine is served when it goes on."""
        model = self._awake("pause, ask and unpause")
        docker("pause", ENGINES[model])
        with ThreadPoolExecutor() as pool:
            asking = pool.submit(self.ask_for, model)
            eventually(lambda: self._health(model)["inflight"] == 1, BACK_S)
            docker("unpause", ENGINES[model])
            asking.result()

    def pause_and_leave(self) -> None:
        model = self._awake("pause and leave")
        docker("pause", ENGINES[model])
        self.ask_for(self._other(model))

    def pause_for_good(self) -> None:
        """A frozen engine with work counts as hung, and is ended."""
        model = self._awake("pause for good, and ask")
        began = time.time()
        docker("pause", ENGINES[model])
        # Docker lets it go on before it ends it: time enough for an answer, sometimes.
        assert self._stack.chat(model).status_code in {200, 503}
        self._log.wait_for(_event("die", model), after=began, within_s=BACK_S)
        self._is_served(model)

    # What happens behind the gateway's back

    def start_another(self) -> None:
        model = self._awake()
        other = self._pick("start by hand", asleep=True)
        ended = self._start_by_hand(other)
        assert self._awake() == model
        self.ask_for(model)
        self._log.wait_for(_event("die", other), after=ended, within_s=BACK_S)

    def start_another_in_a_switch(self) -> None:
        model = self._begin_switch("begin a switch to {}, start a third by hand")
        third = next(m for m in MODELS if m != model and not self._runs(m))
        ended = self._start_by_hand(third)
        self._is_served(model)
        self._log.wait_for(_event("die", third), after=ended, within_s=BACK_S)

    def restart_awake(self) -> None:
        model = self._awake("docker restart")
        began = time.time()
        docker("restart", "--time", "1", ENGINES[model])
        self.by_hand.append(ByHand(ENGINES[model], began, time.time(), 0))
        again = self._log.wait_for(_event("start", model), after=began, within_s=BACK_S)
        self._log.wait_for(_event("die", model), after=again.at, within_s=BACK_S)
        self._is_served(model)

    # What goes wrong with others

    def kill_gateway(self) -> None:
        """What was wanted is reached after it is back, without anybody asking again."""
        model = self._begin_switch("begin a switch to {}, kill the gateway")
        time.sleep(self._rng.uniform(0, 1.5))  # in any step of the switch
        docker("kill", GATEWAY)
        asleep = [m for m in MODELS if not self._runs(m)]
        intruder = self._rng.choice([*asleep, None])
        began = time.time()
        if intruder is not None:
            self._tell(f"  start {intruder} by hand meanwhile")
            docker("start", ENGINES[intruder])
        done = time.time()
        docker("start", GATEWAY)
        eventually(lambda: self._model() == model, BACK_S)
        if intruder is not None:
            self.by_hand.append(ByHand(ENGINES[intruder], began, done, time.time()))
        self.ask_for(model)

    def restart_docker(self) -> None:
        """Engines live on, and so does what is awake."""
        model = self._awake("restart Docker under")
        began = time.time()
        for option in (["--stop"], []):
            subprocess.run(["bash", GROUND / "engine.sh", *option], check=True, timeout=BACK_S)
        self._is_served(model)
        assert not [e for e in self._log.events if e.at > began and e.action == "die"]
        self.ask_for(self._other(model))

    # Tools

    def _tell(self, text: str) -> None:
        self.told.append(f"{len(self.told) + 1:4} {time.time():.3f} {text}")

    def _pick(self, text: str, *, asleep: bool = False) -> str:
        awake = self._awake() if asleep else None
        model = self._rng.choice([m for m in MODELS if m != awake])
        self._tell(f"{text} {model}")
        return model

    def _other(self, model: str) -> str:
        return self._rng.choice([m for m in MODELS if m != model])

    def _awake(self, text: str = "") -> str:
        model = self._model()
        assert model is not None, self._stack.get("/status").text
        if text:
            self._tell(f"{text} {model}")
        return model

    def _model(self) -> str | None:
        """Return the model that is awake; None also where no gateway answers."""
        with contextlib.suppress(httpx2.TransportError):
            model = self._stack.get("/status").json()["model"]
            return None if model is None else str(model)
        return None

    def _health(self, model: str) -> dict[str, object]:
        found: dict[str, object] = self._stack.get("/health").json()["models"][model]
        return found

    def _runs(self, model: str) -> bool:
        return ENGINES[model] in self._stack.running_engines()

    def ask_for(self, model: str) -> None:
        """Have a request served."""
        answer = self._stack.chat(model, within_s=2 * BACK_S)
        assert answer.status_code == 200, answer.text
        # The fake engine's answers begin with the name of the model that gives them.
        assert answer.json()["choices"][0]["message"]["content"].startswith(model)

    def _is_served(self, model: str) -> None:
        """Have a request served; until the gateway knows what happened, it may be refused."""

        def is_served() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                answer = self._stack.chat(model)
                assert answer.status_code in {200, 502, 503}, answer.text
                return answer.status_code == 200
            return False

        eventually(is_served, BACK_S)
        self.ask_for(model)

    def _switch(self, model: str, *, wait: bool = True) -> httpx2.Response:
        body = {"model": model, "wait": wait}
        return self._stack.post("/api/v1/inference/load", body, headers=self._stack.admin)

    def _begin_switch(self, text: str) -> str:
        model = self._other(self._awake())
        self._tell(text.format(model))
        answer = self._switch(model, wait=False)
        assert answer.status_code == 202, answer.text
        return model

    @contextlib.contextmanager
    def _faults(self, model: str, *flags: str) -> Iterator[None]:
        """Starts within the block misbehave."""
        self._stack.faults(model, *flags)
        try:
            yield
        finally:
            self._stack.faults(model)

    def _start_by_hand(self, model: str) -> float:
        """Start an engine; return a time after which its end is."""
        began = time.time()
        docker("start", ENGINES[model])
        self.by_hand.append(ByHand(ENGINES[model], began, time.time(), 0))
        return self._log.wait_for(_event("start", model), after=began).at


def _event(action: str, model: str) -> Callable[[Event], bool]:
    return lambda event: event.action == action and event.name == ENGINES[model]
