"""A device lease: ComfyUI, a game or a training run has the card, and the gateway gets it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness import GatewayHome, eventually, gateway_home
from tests.integration.devices import CARD_MIB, beside, on_card, start_on_card
from tests.integration.gateways import DEFECTS, error_of
from tests.nvml.library import FakeDevice, build

pytestmark = pytest.mark.feature("device lease")

LEASE = "/api/v1/device/lease"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path / "card", CARD_MIB)


@pytest.fixture
def home(
    tmp_path: Path, device: FakeDevice, library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        models = {
            "big": on_card(device, tmp_path, "big", 9000, "--token-delay", "0.02"),
            "small": on_card(device, tmp_path, "small", 4000, group="small"),
            "cpu": beside(tmp_path, "cpu"),
        }
        start_on_card(home, models, monkeypatch, **device.environment(library))
        yield home
        log = home.log.read_text()
        assert [word for word in DEFECTS if word in log] == [], log


def take(home: GatewayHome, **fields: Any) -> httpx2.Response:
    body = {"ttl_s": 600, "reason": "ComfyUI", **fields}
    return home.post(LEASE, body, headers=home.admin)


def leases(home: GatewayHome) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = home.get(LEASE, headers=home.admin).json()["leases"]
    assert [x["id"] for x in home.get("/status").json()["leases"]] == [x["id"] for x in listed]
    return listed


def give(home: GatewayHome, ident: str) -> None:
    answer = httpx2.delete(f"{home.url}{LEASE}/{ident}", headers=home.admin)
    assert answer.json() == {"id": ident, "state": "given"}


def test_the_whole_card_and_back(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200
    assert home.chat("small").status_code == 200

    answer = take(home)

    assert answer.status_code == 200
    held = answer.json()
    assert (held["device"], held["mib"], held["ready"], held["note"]) == ("gpu0", None, True, None)
    left_s = (datetime.fromisoformat(held["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert abs(left_s - held["expires_in_s"]) < 5
    assert home.get("/health").json()["devices"]["gpu0"]["free_mib"] == CARD_MIB
    assert [x["id"] for x in leases(home)] == [held["id"]]
    refused = home.chat("big")
    assert refused.headers["retry-after"] == "120"
    text = error_of(refused, 503, "gpu_busy")["message"]
    assert "gpu0 is leased for" in text
    assert "(ComfyUI)" in text
    assert f"llm-backend lease give {held['id']}" in text
    error_of(home.load("small"), 503, "gpu_busy")
    assert home.chat("cpu").status_code == 200

    give(home, held["id"])

    eventually(lambda: home.state("big") == home.state("small") == "awake")
    assert leases(home) == []
    assert home.chat("big").status_code == 200


def test_a_part_of_the_card_leaves_the_models_that_fit(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200
    assert home.chat("small").status_code == 200

    held = take(home, mib=8000, device="gpu0").json()

    assert held["mib"] == 8000
    assert home.get("/health").json()["devices"]["gpu0"]["free_mib"] >= 8000
    assert home.chat("small").status_code == 200
    assert home.starts("small") == 1
    error_of(home.chat("big"), 503, "gpu_busy")
    again = take(home, mib=8000)
    assert "leased already: 8000 MiB (ComfyUI)" in error_of(again, 409, "conflict")["message"]


def test_a_lease_that_runs_out_gives_the_card_back(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200

    with ThreadPoolExecutor() as pool, told(home) as lines:
        seen = pool.submit(lambda: [states_of(lines, until="expired"), home.state("big")])
        assert take(home, ttl_s=2).status_code == 200
        states, _ = seen.result()

    assert states == ["taken", "ready", "expired"]
    eventually(lambda: home.state("big") == "awake")
    assert home.starts("big") == 2


def told(home: GatewayHome) -> Any:
    return httpx2.stream("GET", home.url + "/events", timeout=60)


def states_of(response: httpx2.Response, until: str) -> list[str]:
    """Return what /events tells of leases, up to this state."""
    states: list[str] = []
    event = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        if line.startswith("data: ") and event == "lease":
            states.append(json.loads(line.removeprefix("data: "))["state"])
            if states[-1] == until:
                break
    return states


def test_running_requests_finish_first(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200
    body = {
        "model": "big",
        "messages": [{"role": "user", "content": "Say much"}],
        "stream": True,
        "max_tokens": 100,
    }
    with httpx2.stream("POST", home.url + "/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)

        answer = take(home, wait=False)

        assert answer.status_code == 202
        assert not answer.json()["ready"]
        error_of(home.chat("big"), 503, "gpu_busy")
        assert [*lines][-2:] == ["data: [DONE]", ""]
    eventually(lambda: leases(home)[0]["ready"])
    assert home.state("big") == "stopped"


def test_a_lease_outlives_a_restart_of_the_gateway(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200
    held = take(home).json()
    assert home.terminate() == 0

    home.start()

    (kept,) = leases(home)
    assert (kept["id"], kept["reason"], kept["mib"]) == (held["id"], "ComfyUI", None)
    assert kept["expires_at"] == held["expires_at"]
    assert 0 < kept["expires_in_s"] < held["expires_in_s"]
    error_of(home.chat("big"), 503, "gpu_busy")
    give(home, held["id"])
    eventually(lambda: home.state("big") == "awake")


def test_an_engine_that_a_dead_gateway_left_makes_way_for_its_lease(home: GatewayHome) -> None:
    assert home.chat("big").status_code == 200
    home.kill()
    entry = {"device": "gpu0", "mib": None, "reason": "a game", "expires_at": 4e9}
    (home.root / "state/device-leases.json").write_text(json.dumps({"abc": entry}))

    home.start()

    eventually(lambda: leases(home)[0]["ready"])
    assert home.state("big") == "stopped"
    give(home, "abc")
    eventually(lambda: home.state("big") == "awake")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"ttl_s": 0}, "ttl_s", "0.0 is not above 0"),
    ({"ttl_s": -3}, "ttl_s", "-3.0 is not above 0"),
    ({"ttl_s": 1e9}, "ttl_s", "1000000000.0 is not above 0 and at most 604800"),
    ({"ttl_s": "soon"}, "ttl_s", 'not "soon"'),
    ({"ttl_s": None}, "ttl_s", "not null"),
    ({"mib": 0}, "mib", "0 is not at least 1"),
    ({"mib": -5}, "mib", "-5 is not at least 1"),
    ({"mib": 1.5}, "mib", "not 1.5"),
    ({"mib": True}, "mib", "not true"),
    ({"mib": 14768}, "mib", "14768 MiB are more than the 14767 MiB of gpu0"),
    ({"reason": " "}, "reason", "' ' is not text"),
    ({"reason": 7}, "reason", "not 7"),
    ({"reason": "x" * 201}, "reason", "at most 200 characters"),
    ({"device": "gpu7"}, "device", "'gpu7' is not one of the devices of the catalog: cpu, gpu0"),
    ({"wait": "yes"}, "wait", 'not "yes"'),
    ({"minutes": 5}, "minutes", "Extra inputs are not permitted, not 5"),
]


def test_what_cannot_be_leased_is_named(home: GatewayHome) -> None:
    for fields, param, words in BAD:
        error = error_of(take(home, **fields), 400, "invalid_request")
        assert error["param"] == param
        assert words in error["message"]
    for missing in ("ttl_s", "reason"):
        body = {"ttl_s": 5, "reason": "x"}
        del body[missing]
        answer = home.post(LEASE, body, headers=home.admin)
        assert error_of(answer, 400, "invalid_request")["param"] == missing
    gone = httpx2.delete(f"{home.url}{LEASE}/nobody", headers=home.admin)
    assert "There is no device lease 'nobody'." in error_of(gone, 404, "not_found")["message"]
    assert leases(home) == []


def test_only_operators_lease(home: GatewayHome) -> None:
    body = {"ttl_s": 5, "reason": "x"}
    error_of(home.post(LEASE, body), 401, "invalid_api_key")
    error_of(home.get(LEASE), 401, "invalid_api_key")
    error_of(httpx2.delete(f"{home.url}{LEASE}/x"), 401, "invalid_api_key")
    assert leases(home) == []
