"""What the labels of the metrics say: what the catalog, the settings and the code have."""

from __future__ import annotations

from typing import Any

from llm_backend import __version__, errors
from llm_backend.config.catalog import Catalog
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.labels import STAGES, vocabulary_of
from llm_backend.switching.entry import Entry
from llm_backend.switching.events import Needs
from llm_backend.switching.states import State
from llm_backend.telemetry.vocabulary import Vocabulary


def entry(**fields: Any) -> dict[str, Any]:
    engine = {"kind": "command", "argv": ["serve"]}
    return {"runtimes": ["process"], "engine": engine, "devices": ["cpu"], **fields}


CATALOG = Catalog.model_validate(
    {
        "devices": {"cpu": {"kind": "cpu"}, "gpu0": {"kind": "cuda", "index": 0}},
        "models": {
            "chat": entry(capabilities=["chat", "responses"]),
            "rank": entry(capabilities=["rerank"]),
            "elsewhere": entry(capabilities=["chat"]),
        },
    }
)
ENTRIES = [
    Entry(Needs("chat", "cpu", 1, {"cpu": 100}, rungs={2: {}, 1: {}})),
    Entry(Needs("rank", "cpu", 1, {"cpu": 100})),
]


def words(*, may_keep: bool = True) -> Vocabulary:
    fleet = Fleet(CATALOG, {"elsewhere": "a reason"}, "chat")
    return vocabulary_of(fleet, ENTRIES, ["bob", "admin", "bob"], "local", may_keep=may_keep)


def test_a_model_serves_the_routes_of_its_capabilities() -> None:
    chat, rank = words().models
    assert (chat.name, rank.name) == ("chat", "rank")
    # Answers of /v1/responses are never kept.
    assert chat.routes == {
        "/v1/chat/completions": True,
        "/api/v1/chat/completions": True,
        "/api/v1/inference/generate": True,
        "/v1/responses": False,
    }
    assert set(rank.routes) == {"/rerank", "/v1/rerank", "/v2/rerank"}
    assert (chat.rungs, rank.rungs) == ([1, 2], [])
    assert chat.devices == ["cpu"]


def test_without_a_cache_there_are_no_hits() -> None:
    assert not any(words(may_keep=False).models[0].routes.values())


def test_everything_else_is_from_the_code_or_the_settings() -> None:
    found = words()
    assert found.routes == list(ENDPOINTS)
    assert found.keys == ["bob", "admin"]
    assert found.states == [state.value for state in State]
    assert found.stages == STAGES
    assert found.devices == ["cpu", "gpu0"]
    assert found.build == (__version__, "local")


def test_codes_are_those_that_cross_http() -> None:
    codes = set(words().codes)
    assert {"invalid_request", "model_not_found", "engine_gone", "internal_error"} <= codes
    assert errors.ConfigError.code not in codes
    assert errors.ConnectionFailed.code not in codes
