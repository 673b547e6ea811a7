"""What programs that are not installed here send: the shape of their requests, with short texts."""

from __future__ import annotations

from typing import Any

SYSTEM = {"role": "system", "content": "You are helpful."}
USER = {"role": "user", "content": "Who are you?"}
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
FUNCTION = {
    "type": "function",
    "function": {"name": "read_file", "description": "Reads a file.", "parameters": PARAMETERS},
}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}

OPEN_WEBUI_HEADERS = {
    "x-openwebui-user-name": "Ada%20L.",
    "x-openwebui-user-id": "7f0c",
    "x-openwebui-user-email": "ada@example.org",
    "x-openwebui-user-role": "admin",
    "accept": "*/*",
}


def open_webui(model: str) -> dict[str, Any]:
    """A question in a chat."""
    return {"model": model, "messages": [USER], **USAGE}


def open_webui_title(model: str) -> dict[str, Any]:
    """The title of the chat, asked for after its first answer."""
    task = {"role": "user", "content": "### Task:\nGenerate a concise title."}
    return {"model": model, "messages": [task], "stream": False, "max_completion_tokens": 1000}


def continue_chat(entry: dict[str, Any]) -> dict[str, Any]:
    """A question in Continue's chat, by an entry of its configuration."""
    limit = entry["defaultCompletionOptions"]["maxTokens"]
    asked = {"model": entry["model"], "messages": [SYSTEM, USER], "max_tokens": limit, **USAGE}
    if "tool_use" in entry.get("capabilities", ()):
        asked |= {"tools": [FUNCTION], "parallel_tool_calls": False}
    return asked


def cline(model: str) -> dict[str, Any]:
    """A task for Cline, which explains its tools in the text."""
    parts = [{"type": "text", "text": "<task>Who are you?</task>"}]
    messages = [SYSTEM, {"role": "user", "content": parts}]
    return {"model": model, "messages": messages, "temperature": 0, **USAGE}


def zed(model: dict[str, Any]) -> dict[str, Any]:
    """A message in Zed's agent panel, by an entry of `available_models`."""
    asked = {
        "model": model["name"],
        "messages": [SYSTEM, USER],
        "max_completion_tokens": model["max_output_tokens"],
        "temperature": 1.0,
        **USAGE,
    }
    if model["capabilities"]["tools"]:
        asked |= {"tools": [FUNCTION], "tool_choice": "auto"}
    return asked


CLAUDE_CODE_HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "x-app": "cli",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}


def claude_code(model: str, **fields: Any) -> dict[str, Any]:
    """A question to Claude Code, with the fields that Anthropic's own service alone knows."""
    kept = {"cache_control": {"type": "ephemeral"}}
    reminder = {"type": "text", "text": "<system-reminder>Today is a day.</system-reminder>"}
    question = {"type": "text", "text": "Who are you?", **kept}
    tool = {"name": "Read", "description": "Reads a file.", "input_schema": PARAMETERS}
    return {
        "model": model,
        "system": [{"type": "text", "text": "You are an agent.", **kept}],
        "messages": [{"role": "user", "content": [reminder, question]}],
        "tools": [tool],
        "metadata": {"user_id": '{"device_id":"0","session_id":"0"}'},
        "max_tokens": 2048,
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
        **fields,
    }
