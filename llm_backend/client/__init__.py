"""The async client of the gateway. It imports nothing of ours but `errors` and `wire`."""

from llm_backend.client.client import LLMClient
from llm_backend.client.failures import HTTPAnswer
from llm_backend.client.results import (
    ChatChunk,
    ChatCompletion,
    Health,
    Model,
    Status,
    SwitchResult,
)
from llm_backend.client.stream import ChatStream
from llm_backend.client.view import View

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "ChatStream",
    "HTTPAnswer",
    "Health",
    "LLMClient",
    "Model",
    "Status",
    "SwitchResult",
    "View",
]
