"""Device-level free memory gates every start: late, never, in a stranger's hands, without names."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness import GatewayHome, eventually, gateway_home
from tests.integration.devices import CARD_MIB, beside, on_card, start_on_card
from tests.integration.gateways import DEFECTS, error_of
from tests.nvml.library import FakeDevice, build

pytestmark = pytest.mark.feature("device memory")

MEMORY_S = {"start_s": 30, "stop_s": 5, "memory_s": 1}
"""A model that waits no longer than this for memory."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path / "card", CARD_MIB)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home
        log = home.log.read_text()
        assert [word for word in DEFECTS if word in log] == [], log


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def card(home: GatewayHome) -> dict[str, Any]:
    """Return what the gateway says of the card."""
    about: dict[str, Any] = home.get("/health").json()["devices"]["gpu0"]
    return about


def refusal(answer: httpx2.Response) -> str:
    """Return what a refused client reads; it is told when to try again."""
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert answer.headers["x-should-retry"] == "true"
    return str(error_of(answer, 503, "gpu_busy")["message"])


def test_memory_that_comes_back_late_is_waited_for(
    home: GatewayHome, device: FakeDevice, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: on_card(device, home.root, name, 9000) for name in "ab"}
    start_on_card(home, models, monkeypatch, **device.environment(library))
    assert home.chat("a").status_code == 200
    device.linger("never")

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(home.chat, "b")
        eventually(lambda: (home.get("/status").json()["switch"] or {}).get("step") == "memory")
        assert card(home)["free_mib"] == CARD_MIB - 9000
        assert home.starts("b") == 0
        device.linger(0)
        assert answer.result().status_code == 200

    assert card(home)["free_mib"] == CARD_MIB - 9000


def test_memory_that_never_comes_back(
    home: GatewayHome, device: FakeDevice, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {name: on_card(device, home.root, name, 9000, timeouts=MEMORY_S) for name in "ab"}
    models["c"] = beside(home.root, "c")
    start_on_card(home, models, monkeypatch, **device.environment(library))
    assert home.chat("a").status_code == 200
    device.linger("never")

    text = refusal(home.chat("b"))

    assert f"b needs 9000 MiB on gpu0 (A device that does not exist); {CARD_MIB - 9000} of" in text
    assert "9000 MiB are held by nobody that the system names" in text
    assert home.starts("b") == 0
    assert home.chat("c").status_code == 200
    assert home.get("/health").json()["status"] == "degraded"

    device.linger(0)
    eventually(lambda: home.chat("b").status_code == 200)
    assert home.get("/health").json()["status"] == "ok"


def test_memory_in_a_strangers_hands(
    home: GatewayHome,
    device: FakeDevice,
    library: Path,
    stranger: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device.hold(stranger.pid, 9000)
    models = {"a": on_card(device, home.root, "a", 9000, timeouts=MEMORY_S)}
    start_on_card(home, models, monkeypatch, **device.environment(library))

    for _ in range(3):  # the second failure in a row makes it rest, for two seconds at most
        text = refusal(home.chat("a"))
        assert f"Held by: sleep (pid {stranger.pid}, 9000 MiB)." in text
    assert card(home)["foreign_mib"] == 9000
    metrics = home.get("/metrics").text
    for kind, mib in (("total", CARD_MIB), ("free", CARD_MIB - 9000), ("foreign", 9000)):
        series = f'llm_device_memory_bytes{{device="gpu0",kind="{kind}"}}'
        assert f"{series} {float(mib * 1024 * 1024)}" in metrics
    assert stranger.poll() is None

    device.let_go(stranger.pid)
    eventually(lambda: home.chat("a").status_code == 200, within_s=20)
    assert stranger.poll() is None
    assert card(home)["foreign_mib"] == 0


@pytest.mark.parametrize(
    ("hide", "words"),
    [
        ("hide_processes", "The system does not show which processes hold it."),
        ("hide_process_memory", "Held by: sleep (pid {pid})."),
    ],
)
def test_a_system_that_shows_no_figures(
    home: GatewayHome,
    device: FakeDevice,
    library: Path,
    stranger: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    hide: str,
    words: str,
) -> None:
    device.hold(stranger.pid, 9000)
    getattr(device, hide)()
    models = {"a": on_card(device, home.root, "a", 9000, timeouts=MEMORY_S)}
    start_on_card(home, models, monkeypatch, **device.environment(library))

    assert words.format(pid=stranger.pid) in refusal(home.chat("a"))
    assert card(home)["foreign_mib"] is None


def test_our_own_engines_are_no_strangers(
    home: GatewayHome, device: FakeDevice, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = on_card(device, home.root, "greedy", 2000, holds=9000, group="greedy")
    models = {"greedy": greedy, "b": on_card(device, home.root, "b", 9000, timeouts=MEMORY_S)}
    start_on_card(home, models, monkeypatch, **device.environment(library))
    assert home.chat("greedy").status_code == 200
    (pid,) = device.holders()

    text = refusal(home.chat("b"))

    assert "Held by: no process that the system shows. By engines of this gateway:" in text
    assert f"(pid {pid}, 9000 MiB)" in text
    assert card(home)["foreign_mib"] == 0
    assert home.chat("greedy").status_code == 200


def test_the_ceiling_counts_what_others_hold(
    home: GatewayHome,
    device: FakeDevice,
    library: Path,
    stranger: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device.hold(stranger.pid, 1000)
    models = {"a": on_card(device, home.root, "a", 14700, timeouts=MEMORY_S)}
    start_on_card(home, models, monkeypatch, **device.environment(library))

    text = refusal(home.chat("a"))  # 14700 and 1000 are less than there is, and over 95 % of it

    assert f"{CARD_MIB - 1000} of {CARD_MIB} MiB are free, and 816 stay so" in text
    device.hold(stranger.pid, 500)
    eventually(lambda: home.chat("a").status_code == 200, within_s=20)


def test_the_head_room_is_not_for_models(
    home: GatewayHome, device: FakeDevice, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"a": on_card(device, home.root, "a", 14768), "c": beside(home.root, "c")}
    start_on_card(home, models, monkeypatch, **device.environment(library))

    text = str(error_of(home.chat("a"), 404, "model_not_found")["message"])

    assert "it needs 14768 MiB and models may take 14767 of gpu0" in text


def test_without_a_driver_the_memory_is_not_watched_and_health_says_so(
    home: GatewayHome, tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = FakeDevice(tmp_path / "card", CARD_MIB)
    (nothing.folder / "total").unlink()
    models = {"a": on_card(nothing, home.root, "a", 100), "c": beside(home.root, "c")}
    start_on_card(home, models, monkeypatch, **nothing.environment(library))

    health = home.get("/health").json()

    assert health["unwatched_devices"] == ["gpu0"]
    assert list(health["devices"]) == ["cpu"]
    assert home.chat("c").status_code == 200
    assert "no NVIDIA driver" in error_of(home.chat("a"), 404, "model_not_found")["message"]
