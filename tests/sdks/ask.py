"""One question through an official SDK for Python; `ask.mjs` beside it does the same with Node.

`python ask.py openai|anthropic URL MODEL stream|plain [LIMIT_MS]`

Everything is as the SDK has it by default. LIMIT_MS replaces the 600,000 ms for which it waits for
the next byte. Writes a line when it is ready, asks when it reads one, and writes one JSON object.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

MESSAGES: Any = [{"role": "user", "content": "Say hi"}]


def ask_openai(sdk: Any, url: str, model: str, *, stream: bool, options: dict[str, Any]) -> str:
    client = sdk.OpenAI(base_url=url + "/v1", **options)
    if not stream:
        answer = client.chat.completions.create(model=model, messages=MESSAGES)
        return answer.choices[0].message.content or ""
    chunks = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def ask_anthropic(sdk: Any, url: str, model: str, *, stream: bool, options: dict[str, Any]) -> str:
    client = sdk.Anthropic(base_url=url, **options)
    asked: Any = {"model": model, "messages": MESSAGES, "max_tokens": 8}
    if not stream:
        content: Any = client.messages.create(**asked).content
    else:
        with client.messages.stream(**asked) as events:
            content = events.get_final_message().content
    return str(content[0].text)


def main() -> None:
    name, url, model, kind, *limit = sys.argv[1:]
    sdk = importlib.import_module(name)  # one of them: each takes its time
    options: dict[str, Any] = {"api_key": "any"}
    if limit:
        options["timeout"] = float(limit[0]) / 1000
    print(flush=True)
    sys.stdin.readline()
    ask = {"openai": ask_openai, "anthropic": ask_anthropic}[name]
    began = time.monotonic()
    text = error = None
    try:
        text = ask(sdk, url, model, stream=kind == "stream", options=options)
    except Exception as failure:  # noqa: BLE001  # each SDK has its own, and some of its transport
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps({"text": text, "error": error, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
