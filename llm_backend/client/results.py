"""What the gateway answers, typed: the fields that people read; the rest stays reachable by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_backend.client.view import View
from llm_backend.errors import InvalidJSON, StructuredOutputInvalid
from llm_backend.wire import JSONObject, decode_object


class FunctionCall(View):
    """The function that a model wants called; `arguments` is JSON as the model wrote it."""

    name: str = ""
    arguments: str = ""


class ToolCall(View):
    """One tool call; in a stream it comes in parts, told apart by `index`.

    Example:
        >>> function = {"name": "weather", "arguments": '{"city": "Псков"}'}
        >>> call = ToolCall({"id": "call-1", "function": function})
        >>> call.name, call.arguments
        ('weather', {'city': 'Псков'})
        >>> call.result("4 °C")
        {'role': 'tool', 'tool_call_id': 'call-1', 'content': '4 °C'}
    """

    id: str = ""
    index: int = 0
    type: str = "function"
    function: FunctionCall = FunctionCall({})

    @property
    def name(self) -> str:
        """The function that is to be called."""
        return self.function.name

    @property
    def arguments(self) -> JSONObject:
        """The arguments, decoded.

        Raises:
            StructuredOutputInvalid: they are not a JSON object, as when the answer was cut off.
        """
        text = self.function.arguments
        try:
            return decode_object(text.encode()) if text.strip() else {}
        except InvalidJSON as error:
            raise StructuredOutputInvalid(
                f"The arguments of {self.name!r} are not a JSON object: {error.message}",
                answer=text,
            ) from None

    def result(self, content: str) -> JSONObject:
        """Return the message that tells the model what the call came to."""
        return {"role": "tool", "tool_call_id": self.id, "content": content}


class Message(View):
    """What the model said; may go back into `messages` as it is."""

    role: str = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered; engines have two names for it."""
        return self.reasoning_content or self.get("reasoning") or ""


class Choice(View):
    """One of the answers to a request."""

    message: Message
    index: int = 0
    finish_reason: str | None = None


class Usage(View):
    """Tokens that a request took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class ChatCompletion(View):
    """A whole answer.

    Example:
        >>> answer = ChatCompletion({"choices": [{"message": {"content": "Four."}}]})
        >>> answer.text
        'Four.'
        >>> answer["choices"][0]["message"]["content"] == answer.choices[0].message.content
        True
    """

    choices: tuple[Choice, ...]
    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """What the first choice says; empty where the model called a tool instead."""
        return (self.choices[0].message.content or "") if self.choices else ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the first choice wants made."""
        return self.choices[0].message.tool_calls if self.choices else ()


class ChunkChoice(View):
    """What one chunk adds to one of the answers."""

    delta: Message = Message({})
    index: int = 0
    finish_reason: str | None = None


class ChatChunk(View):
    """A part of an answer; the last one may have no choices and the usage.

    Example:
        >>> ChatChunk({"choices": [{"index": 0, "delta": {"content": "Fo"}}]}).text
        'Fo'
    """

    choices: tuple[ChunkChoice, ...] = ()
    id: str = ""
    model: str = ""
    created: int = 0
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """What the chunk adds to the first choice; empty where it adds no text."""
        return "".join(c.delta.content or "" for c in self.choices if c.index == 0)


class Model(View):
    """A model that the server offers; what it leaves out is None or empty."""

    id: str
    max_model_len: int | None = None
    capabilities: tuple[str, ...] = ()
    residency: str | None = None
    purpose: str = ""
    aliases: tuple[str, ...] = ()
    quantization: str | None = None


class GatewayHealth(View):
    """The gateway process. `uptime_s` in seconds."""

    status: str = ""
    version: str = ""
    pid: int | None = None
    uptime_s: float = 0.0


class DeviceHealth(View):
    """Memory of a device, in MiB."""

    name: str = ""
    total_mib: int | None = None
    free_mib: int | None = None


class ModelHealth(View):
    """State of one model; `reason` says why it failed."""

    state: str = ""
    residency: str | None = None
    inflight: int = 0
    reason: str | None = None


class Health(View):
    """How the gateway fares. True where all is well, else False with a `reason`.

    `status` is `ok`, `degraded` (it answers, something is wrong) or `down` (no good answer
    came; then nothing but the reason is known).

    Example:
        >>> health = Health({"status": "down", "reason": "Nothing answers."})
        >>> bool(health), health.reason
        (False, 'Nothing answers.')
    """

    status: str
    gateway: GatewayHealth = GatewayHealth({})
    cache: Mapping[str, Any] = {}
    devices: Mapping[str, DeviceHealth] = {}
    models: Mapping[str, ModelHealth] = {}
    helpers: Mapping[str, Any] = {}

    def __bool__(self) -> bool:
        return self.status == "ok"

    @property
    def reason(self) -> str:
        """Why it is not well, in a sentence; empty where it is."""
        if self:
            return ""
        failed = (
            f"{model} failed: {health.reason or 'no reason given'}"
            for model, health in self.models.items()
            if health.state == "failed"
        )
        return self.get("reason") or "; ".join(failed) or f"The gateway is {self.status}."


class SwitchResult(View):
    """What became of a switch. `seconds` is None while it goes on."""

    model: str
    state: str
    seconds: float | None = None


class Progress(View):
    """How far a load has come; `fraction` from 0 to 1."""

    text: str = ""
    fraction: float | None = None


class RunningSwitch(View):
    """The switch that is under way. Times in seconds."""

    to: str
    from_: str | None = None
    step: str = ""
    elapsed_s: float = 0.0
    estimate_s: float | None = None
    progress: Progress | None = None


class Queue(View):
    """Requests that wait for a model; `wait_s` is what a newcomer has to expect, in seconds."""

    length: int = 0
    limit: int | None = None
    by_model: Mapping[str, int] = {}
    wait_s: Mapping[str, float] = {}


class ModelStatus(View):
    """One model of the catalog as it is now."""

    id: str
    state: str
    purpose: str = ""
    residency: str | None = None
    inflight: int = 0
    waiting: int = 0
    since_s: float | None = None
    reason: str | None = None
    available: bool = True
    unavailable_reason: str | None = None
    size_mib: int | None = None


class Status(View):
    """What the gateway is doing. `timestamp` is ISO-8601, `uptime_s` in seconds."""

    is_loaded: bool
    model: str | None = None
    model_path: str | None = None
    timestamp: str = ""
    uptime_s: float = 0.0
    mode: str = ""
    default: str | None = None
    switch: RunningSwitch | None = None
    queue: Queue = Queue({})
    models: tuple[ModelStatus, ...] = ()
