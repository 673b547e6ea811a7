"""Reads an engine's error answer and says in our terms what it means.

An engine's own text goes to the client only where it helps to mend the request, and scrubbed:
no addresses, no paths, no tracebacks, and not much of it.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from llm_backend.errors import (
    EngineBroke,
    InvalidRequest,
    LLMBackendError,
    NotSupported,
    Overloaded,
    PromptTooLong,
)

_LONGEST_MESSAGE: Final = 300
_LONGEST_READ: Final = 4_000
"""Characters of a message that are looked at: some engines quote the whole request in it."""
_BUSY_RETRY_S: Final = 1.0

_QUOTE: Final = 20
"""So many characters of a request are its client's own words, and no name of a field."""

_TRACEBACK: Final = re.compile(r"(Traceback \(most recent call last\)|\bFile \").*", re.DOTALL)
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]+\b")
_PATH: Final = re.compile(r"(?<![\w:/.])(?:~|\.{1,2})?(?:/(?!v\d+/)[\w.+@-]+){2,}/?")
_OBJECT: Final = re.compile(r"<[\w.]+ (?:object )?at …>")
_PARAM: Final = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}")

_VLLM_LIMIT: Final = re.compile(r"maximum context length is (\d+)")
_VLLM_COUNT: Final = re.compile(r"contains ((?:at least )?\d+ (?:input tokens|characters))")
_UNKNOWN_MODEL: Final = re.compile(
    r"\bmodel\b.*\b(?:not exist|not found|unknown)\b|\bunknown model\b"
)


def error_from(status: int, body: bytes, after: bytes | None = None) -> LLMBackendError:
    """Return the error that an engine's answer stands for.

    The same for an error event in a stream: `status` is then the code that the event carries.

    Args:
        status: HTTP status of the answer.
        body: What came with it: JSON of vLLM, llama.cpp or another server, or anything else.
        after: Its header `Retry-After`, if it had one.
    """
    answer = _inner(body)
    message = _message(answer)
    if status in {429, 503}:
        return Overloaded(
            "The engine takes no more requests just now.",
            retry_after_s=_seconds(after) or _BUSY_RETRY_S,
        )
    if status in {401, 403}:
        return EngineBroke(
            f"The engine refuses the gateway's key ({status}).",
            hint="An operator has to correct `key_file` of the model in the catalog.",
        )
    if status == 404:
        return _not_found(message)
    if status in {405, 501}:
        return NotSupported(_shown("The engine of this model cannot do that", message))
    if not 400 <= status < 500:
        return EngineBroke(
            f"The engine failed on the request ({status}).", retry_after_s=_seconds(after)
        )
    return _too_long(answer, message) or InvalidRequest(
        _shown("The engine refused the request", message), param=_param(answer)
    )


def _seconds(after: bytes | None) -> float | None:
    """Return the seconds that a `Retry-After` stands for: a number of them, or a date."""
    text = (after or b"").decode("latin-1").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    with suppress(ValueError):
        until = parsedate_to_datetime(text)
        # The header names a time of day: the monotonic clock knows none.
        return max(1.0, until.timestamp() - time.time())
    return None


def _inner(body: bytes) -> dict[str, Any]:
    """Return the object that describes the error, wherever a server puts it."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error", answer)
    return error if isinstance(error, dict) else {"message": error}


def _message(answer: dict[str, Any]) -> str:
    message = answer.get("message", answer.get("detail"))
    if isinstance(message, list):  # FastAPI's list of what does not validate
        parts = [part.get("msg") for part in message if isinstance(part, dict)]
        message = "; ".join(part for part in parts if isinstance(part, str))
    return message if isinstance(message, str) else ""


def _not_found(message: str) -> LLMBackendError:
    if _UNKNOWN_MODEL.search(message.lower()):
        return EngineBroke(
            "The engine does not know the model by the name that the catalog gives it.",
            hint="An operator has to compare `served_name` with what the engine serves.",
        )
    return NotSupported("The engine of this model does not have this route.")


def _too_long(answer: dict[str, Any], message: str) -> PromptTooLong | None:
    count, limit = answer.get("n_prompt_tokens"), answer.get("n_ctx")
    if answer.get("type") == "exceed_context_size_error":
        return _over(f"{count} tokens" if count else None, str(limit) if limit else None)
    if found := _VLLM_LIMIT.search(message):
        counted = _VLLM_COUNT.search(message)
        return _over(counted[1] if counted else None, found[1])
    if answer.get("code") == "context_length_exceeded":
        return _over(None, None)
    return None


def _over(count: str | None, limit: str | None) -> PromptTooLong:
    has = f"The prompt has {count}" if count else "The prompt is too long"
    takes = f"the model takes {limit} tokens" if limit else "the model takes fewer tokens"
    return PromptTooLong(
        f"{has}; {takes}.", hint="Shorten the prompt, or ask for a model with a longer context."
    )


def _param(answer: dict[str, Any]) -> str | None:
    param = answer.get("param")
    if not isinstance(param, str):
        return None
    param = param.removeprefix("body.")
    return param if _PARAM.fullmatch(param) else None


def _shown(what: str, message: str) -> str:
    clean = scrub(message)
    return f"{what}: {clean}" if clean else f"{what}."


def scrub(message: str) -> str:
    """Return an engine's message without addresses, paths and tracebacks, and of bounded length."""
    text = _TRACEBACK.sub("", message[:_LONGEST_READ])
    text = _OBJECT.sub("…", _PATH.sub("…", _ADDRESS.sub("…", text)))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE].rstrip() + "…"


def unquoted(message: str, asked: str) -> str:
    """Return an engine's message without what it repeats of the request.

    Args:
        message: As `scrub` returns it.
        asked: The texts of the request.
    """
    asked = " ".join(asked.split())
    kept: list[str] = []
    at = 0
    while at < len(message):
        end = at + _QUOTE
        if end > len(message) or message[at:end] not in asked:
            kept.append(message[at])
            at += 1
            continue
        while end < len(message) and message[at : end + 1] in asked:
            end += 1
        kept.append("…")
        at = end
    return "".join(kept)
