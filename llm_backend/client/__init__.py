"""The client, async and blocking. It imports nothing of ours but `errors` and `wire`."""

from llm_backend.client.batch import Outcome
from llm_backend.client.client import LLMClient
from llm_backend.client.events import (
    DoneEvent,
    EventStream,
    ReasoningEvent,
    StreamEvent,
    TextEvent,
    ToolCallEvent,
    UsageEvent,
    WaitEvent,
)
from llm_backend.client.failures import HTTPAnswer
from llm_backend.client.images import image_message, image_part
from llm_backend.client.results import (
    ChatChunk,
    ChatCompletion,
    Health,
    Model,
    Status,
    SwitchResult,
    ToolCall,
)
from llm_backend.client.stream import ChatStream
from llm_backend.client.sync import LLMClientSync, SyncStream
from llm_backend.client.view import View

__all__ = [
    "ChatChunk",
    "ChatCompletion",
    "ChatStream",
    "DoneEvent",
    "EventStream",
    "HTTPAnswer",
    "Health",
    "LLMClient",
    "LLMClientSync",
    "Model",
    "Outcome",
    "ReasoningEvent",
    "Status",
    "StreamEvent",
    "SwitchResult",
    "SyncStream",
    "TextEvent",
    "ToolCall",
    "ToolCallEvent",
    "UsageEvent",
    "View",
    "WaitEvent",
    "image_message",
    "image_part",
]
