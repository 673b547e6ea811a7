"""The table of inference routes: what each needs, whose API it speaks, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from llm_backend.config.catalog import Capability
from llm_backend.gateway.sse import StreamKind
from llm_backend.wire import Dialect


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One inference route. All are POST.

    Attributes:
        path: As clients ask for it.
        capability: What the model must be able to do.
        may_switch: Whether a request may make its model awake; one that may not is answered
            by the model if that is awake already, else refused.
        dialect: Whose errors it speaks.
        stream: How its streams end; None where it never streams.
        generates: Whether it takes generation parameters (defaults of the catalog apply).
        cacheable: Whether equal requests have equal answers when nothing is sampled.
        asks: The path that the engine is asked for; empty where it is the same.
    """

    path: str
    capability: Capability
    may_switch: bool = True
    dialect: Dialect = "openai"
    stream: StreamKind | None = None
    generates: bool = False
    cacheable: bool = True
    asks: str = ""

    @property
    def engine_path(self) -> str:
        """The path that the engine is asked for."""
        return self.asks or self.path


CHAT_PATH: Final = "/v1/chat/completions"
GENERATE_PATH: Final = "/api/v1/inference/generate"

_TABLE: Final = (
    Endpoint(CHAT_PATH, Capability.CHAT, stream="chat", generates=True),
    Endpoint(
        "/api/v1/chat/completions",
        Capability.CHAT,
        stream="chat",
        generates=True,
        asks=CHAT_PATH,
    ),
    # What it takes and gives is translated by text_api.py; in between it is a chat.
    Endpoint(GENERATE_PATH, Capability.CHAT, stream="chat", generates=True, asks=CHAT_PATH),
    Endpoint("/v1/completions", Capability.COMPLETIONS, stream="chat", generates=True),
    Endpoint(
        "/v1/responses",
        Capability.RESPONSES,
        stream="responses",
        # `store`, `previous_response_id` and `background` make an answer more than its body.
        cacheable=False,
    ),
    Endpoint("/v1/messages", Capability.MESSAGES, dialect="anthropic", stream="messages"),
    Endpoint(
        "/v1/messages/count_tokens",
        Capability.MESSAGES,
        may_switch=False,
        dialect="anthropic",
    ),
    Endpoint("/v1/embeddings", Capability.EMBEDDINGS),
    Endpoint("/tokenize", Capability.TOKENIZE, may_switch=False),
    Endpoint("/detokenize", Capability.TOKENIZE, may_switch=False),
    Endpoint("/rerank", Capability.RERANK),
    Endpoint("/v1/rerank", Capability.RERANK),
    Endpoint("/v2/rerank", Capability.RERANK),
    Endpoint("/score", Capability.SCORE),
    Endpoint("/v1/score", Capability.SCORE),
)

ENDPOINTS: Final = MappingProxyType({endpoint.path: endpoint for endpoint in _TABLE})
