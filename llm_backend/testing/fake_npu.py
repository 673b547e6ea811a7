"""Stand-ins for the two processes of an NPU service: the same processes, ports and order.

    python -m llm_backend.testing.fake_npu tokenizer --port 12345
    python -m llm_backend.testing.fake_npu model --port 8001 --url-tokenizer http://127.0.0.1:12345

The tokenizer answers `/health`, `/bos_id`, `/eos_id`, `/encode` and `/decode`, as those do that are
shipped beside models for NPUs. The model ends at once where no tokenizer answers; it serves
`/v1/chat/completions` alone, asks the tokenizer for every prompt, and its `/health` tells of the
NPU. Both note their starts and ends in the file `--journal`, one JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from llm_backend.testing.fake_answers import ChatAnswer
from llm_backend.testing.fake_http import Exchange

Routes = Mapping[tuple[str, str], Callable[[Exchange], Awaitable[None]]]

WORDS: Final = 8
"""Tokens of an answer, unless the request wants fewer."""
_ASK_S: Final = 5.0


class Tokenizer:
    """Turns text into numbers and back: one for each character."""

    def routes(self) -> Routes:
        """Return what it answers."""
        return {
            ("GET", "/health"): lambda exchange: exchange.answer_json({"status": "ok"}),
            ("GET", "/bos_id"): lambda exchange: exchange.answer_json({"bos_id": -1}),
            ("GET", "/eos_id"): lambda exchange: exchange.answer_json({"eos_id": 0}),
            ("POST", "/encode"): self._encode,
            ("POST", "/decode"): self._decode,
        }

    async def _encode(self, exchange: Exchange) -> None:
        await exchange.answer_json({"token_ids": [ord(c) for c in exchange.body["text"]]})

    async def _decode(self, exchange: Exchange) -> None:
        await exchange.answer_json({"text": "".join(map(chr, exchange.body["token_ids"]))})


class Model:
    """Answers chats with the beginning of what it was told.

    Args:
        tokenizer: Address of the tokenizer.
        name: The model name that it answers.
    """

    def __init__(self, tokenizer: str, name: str) -> None:
        address = urlsplit(tokenizer)
        self._tokenizer = (address.hostname or "", address.port or 80)
        self._name = name

    def routes(self) -> Routes:
        """Return what it answers."""
        models = {"object": "list", "data": [{"id": self._name, "object": "model"}]}
        health = {"status": "ok", "npu": "2 of 2 cores"}
        return {
            ("GET", "/health"): lambda exchange: exchange.answer_json(health),
            ("GET", "/v1/models"): lambda exchange: exchange.answer_json(models),
            ("POST", "/v1/chat/completions"): self._chat,
        }

    async def connect(self) -> None:
        """Ask the tokenizer for what a model needs to know of it.

        Raises:
            OSError: it does not answer.
        """
        await self._ask("GET", "/bos_id")
        await self._ask("GET", "/eos_id")

    async def _chat(self, exchange: Exchange) -> None:
        body = exchange.body
        try:
            encoded = await self._ask("POST", "/encode", {"text": body["messages"][-1]["content"]})
            ids = encoded["token_ids"][: body.get("max_tokens", WORDS)]
            text = (await self._ask("POST", "/decode", {"token_ids": ids}))["text"]
        except (OSError, EOFError) as error:
            await exchange.refuse(500, f"the tokenizer does not answer: {error}")
            return
        answer = ChatAnswer(self._name, "npu", len(encoded["token_ids"]), with_usage=False)
        answer.tokens = len(ids)
        if not body.get("stream"):
            await exchange.answer_json(answer.whole(text))
            return
        exchange.begin_stream()
        pieces = [*answer.begin(), *(p for c in text for p in answer.token(c)), *answer.end(text)]
        for piece in [*pieces, b""]:
            await exchange.send(piece)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\ncontent-length: {len(content)}\r\n\r\n"
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_connection(*self._tokenizer)
            try:
                writer.write(head.encode() + content)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
                return json.loads(await reader.readexactly(length))
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()


async def serve(routes: Routes, port: int) -> None:
    """Answer until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer)
        with suppress(ConnectionError):
            while await exchange.read():
                route = routes.get((exchange.method, exchange.path))
                if route is None:
                    await exchange.refuse(404, "Not Found")
                else:
                    await route(exchange)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", port)
    await ended.wait()
    server.close()


def note(journal: Path, event: str, part: str) -> None:
    """Append a line to the journal."""
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, "part": part, "pid": os.getpid()}) + "\n")


async def run(options: argparse.Namespace) -> int:
    """Serve one of the two parts; return the exit status."""
    if options.part == "tokenizer":
        await serve(Tokenizer().routes(), options.port)
        return 0
    model = Model(options.url_tokenizer, options.name)
    try:
        await model.connect()
    except OSError as error:
        sys.stderr.write(f"[E] connect {options.url_tokenizer} failed: {error}\n")
        return 1
    await serve(model.routes(), options.port)
    return 0


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="A part of a fake NPU service, for tests.")
    parser.add_argument("part", choices=["tokenizer", "model"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--url-tokenizer", default="", help="where the tokenizer is")
    parser.add_argument("--name", default="npu", help="the model name that it answers")
    parser.add_argument("--journal", type=Path, required=True, help="file for what happens")
    options = parser.parse_args()
    note(options.journal, "start", options.part)
    status = asyncio.run(run(options))
    note(options.journal, "exit", options.part)
    return status


if __name__ == "__main__":
    sys.exit(main())
