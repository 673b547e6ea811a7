"""What a model cannot do names the models that can, before any of them is made awake."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import orjson
import pytest

from llm_backend.gateway.endpoints import GENERATE_PATH
from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    at_rest,
    client_of,
    error_of,
    fake,
    fakes,
    recorded,
    recorder,
    shared_gateway,
)
from tests.unit.gateway.pictures import GOOD, PNG64, chat_body

pytestmark = pytest.mark.engine

CARD = {"runtimes": ["docker"], "engine": {"kind": "vllm", "container": "x"}, "devices": ["cpu"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fakes(eye=""),
        **fake("reader", capabilities=["chat", "messages", "responses"]),
        "film": recorder(capabilities=["chat", "video"]),
        "boxed": lambda _: {**CARD, "capabilities": ["rerank"]},
    }
    with shared_gateway(tmp_path_factory, models) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home) as http:
        yield http
    at_rest(home)


SOURCE = {"type": "base64", "media_type": "image/png", "data": PNG64}
ASKED_TO_SEE = {
    CHAT: chat_body(GOOD["PNG"]),
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "image", "source": SOURCE}]}]
    },
    "/v1/responses": {"input": [{"content": [{"type": "input_image", "image_url": GOOD["PNG"]}]}]},
    GENERATE_PATH: {"prompt": "?", "images": [PNG64]},
}


@pytest.mark.feature("Images: a model that reads text alone names one that sees")
@pytest.mark.parametrize("path", list(ASKED_TO_SEE))
def test_a_model_that_reads_text_alone_names_one_that_sees(
    home: GatewayHome, http: httpx2.Client, path: str
) -> None:
    response = http.post(path, json={"model": "reader", **ASKED_TO_SEE[path]})
    assert response.status_code == 400
    says = "The model reader cannot do vision. Models that can: eye."
    assert says in response.json()["error"]["message"]
    assert home.starts("reader") == 0


@pytest.mark.feature("Videos go to models that declare them")
def test_a_video_goes_to_a_model_that_declares_it(http: httpx2.Client) -> None:
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    reached, _ = recorded(http.post(CHAT, json={"model": "film", **body}))
    assert orjson.loads(reached) == {"model": "film", **body}

    refused = http.post(CHAT, json={"model": "eye", **body})
    error = error_of(refused, 400, "unsupported_by_model")
    assert "The model eye cannot do video. Models that can: film." in error["message"]

    both = {"messages": [{"role": "user", "content": [part, *chat_body(GOOD["PNG"])["messages"]]}]}
    refused = http.post(CHAT, json={"model": "film", **both})
    assert "cannot do vision" in error_of(refused, 400, "unsupported_by_model")["message"]


@pytest.mark.feature("Embeddings: a model without them names one that has them")
def test_a_model_without_embeddings_names_those_that_have_them(http: httpx2.Client) -> None:
    refused = http.post("/v1/embeddings", json={"model": "film", "input": "a"})
    error = error_of(refused, 400, "unsupported_by_model")
    assert "The model film cannot do embeddings. Models that can: eye." in error["message"]


def test_where_no_model_has_a_path_the_id_is_asked_for(home: GatewayHome) -> None:
    body = {"model_path": "nowhere.gguf"}
    refused = home.post("/api/v1/inference/load", body, headers=home.admin)
    assert 'name it by its id in "model"' in error_of(refused, 404, "model_not_found")["message"]


def test_where_none_can_it_says_so(http: httpx2.Client) -> None:
    score = http.post("/score", json={"model": "eye"}).json()["error"]["message"]
    assert score.endswith("cannot do score. Models that can: none in this set-up.")
    rerank = http.post("/rerank", json={"model": "eye"}).json()["error"]["message"]
    assert "none in this set-up (boxed of the catalog cannot run here)." in rerank
