"""A fake engine: a program that speaks vLLM's HTTP, needs no weights, and fails on demand.

    python -m llm_backend.testing.fake_engine --port 8001 --served-model-name fake

Every way in which an engine can go wrong is a flag (`--help` lists them, `fake_sleep` tells those
of vLLM's sleep mode). With `--journal FILE` it writes down what reached it, one JSON object a
line: `start`, `grandchild`, `ready`, `request` (with the body's `model`), `done`, `gone` (the
client left), `asleep` (with the `level`), `asleep_request` (a request for text that came
meanwhile), `reload` (of the weights), `awake`, `sigterm`, `exit`.

A greedy request (`"temperature": 0`) to `/v1/completions` gets a text that depends on the model,
the prompt and the state of the weights, and on nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from llm_backend.testing.fake_answers import ANSWERS, Answer, CompletionAnswer, JSONObject
from llm_backend.testing.fake_flags import Behaviour, parse
from llm_backend.testing.fake_http import Exchange
from llm_backend.testing.fake_sleep import SleepMode

_SHARDS: Final = 4


def command(*flags: str) -> tuple[str, ...]:
    """Return the command line of a fake engine, with `{port}` for the process runtime."""
    return (sys.executable, "-m", __spec__.name, "--port", "{port}", *flags)


class FakeEngine:
    """The engine: its routes, its counters and its faults."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self._requests = self._running = self._prompt_tokens = self._generated = 0
        self._is_hung = False
        self._sleep = SleepMode(behaviour, self.note)
        self._routes: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            **{("POST", path): self._generate for path in ANSWERS},
            ("GET", "/health"): lambda exchange: exchange.answer(200, b""),
            ("GET", "/version"): lambda exchange: exchange.answer_json({"version": "0.33.0"}),
            ("GET", "/v1/models"): lambda exchange: exchange.answer_json(self._models()),
            ("GET", "/metrics"): lambda exchange: exchange.answer(
                200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8"
            ),
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/v1/messages/count_tokens"): self._count_tokens,
            ("POST", "/v1/embeddings"): self._embed,
            **self._sleep.routes(),
        }

    def note(self, event: str, **details: object) -> None:
        """Append a line to the journal."""
        if self.behaviour.journal:
            line = {"event": event, "pid": os.getpid(), "at": time.time(), **details}
            with open(self.behaviour.journal, "ab", buffering=0) as file:  # noqa: PTH123 - as is
                file.write(json.dumps(line).encode() + b"\n")

    async def serve(self, listener: socket.socket) -> int:
        """Load, then answer requests until SIGTERM; return the exit status."""
        self._sleep.memory.hold(self.behaviour.awake_mib)
        try:
            return await self._serve(listener)
        finally:
            self._sleep.memory.release()

    async def _serve(self, listener: socket.socket) -> int:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm, ended)
        loading = asyncio.create_task(self._load())
        ending = asyncio.create_task(ended.wait())
        await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            return 0
        if self.behaviour.exit_at_start >= 0:
            log("ValueError: Free memory on device cuda:0 (1.20/15.92 GiB) on startup is less than")
            log("desired GPU memory utilization (0.9, 14.33 GiB).")
            return self.behaviour.exit_at_start
        server = await asyncio.start_server(self._connect, sock=listener)
        log("INFO:     Application startup complete.")
        self.note("ready", port=listener.getsockname()[1])
        await ending
        server.close()
        return 0

    def _on_sigterm(self, ended: asyncio.Event) -> None:
        self.note("sigterm")
        if not self.behaviour.ignore_sigterm:
            ended.set()

    async def _load(self) -> None:
        """Pretend to load weights, with the lines that vLLM writes."""
        log("INFO [api_server.py:1272] vLLM API server version 0.33.0")
        log(f"INFO [gpu_model_runner.py:3551] Starting to load model {_name(self)}...")
        for shard in range(_SHARDS + 1):
            share = f"{100 * shard // _SHARDS:3d}% Completed | {shard}/{_SHARDS}"
            log(f"Loading safetensors checkpoint shards: {share} [00:00<00:00,  4.00it/s]")
            await asyncio.sleep(self.behaviour.load_s / (_SHARDS + 1))
        if self.behaviour.never_ready:
            await asyncio.Event().wait()
        log(
            f"INFO [default_loader.py:308] Loading weights took {self.behaviour.load_s:.2f} seconds"
        )
        log("INFO [kv_cache_utils.py:1229] GPU KV cache size: 65,536 tokens")

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer)
        try:
            while await exchange.read():
                await self._answer(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.note("gone", path=exchange.path, model=exchange.body.get("model"))
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        details = {"path": exchange.path, "model": exchange.body.get("model")}
        self.note("request", method=exchange.method, **details)
        if route := self._routes.get((exchange.method, exchange.path)):
            await route(exchange)
        else:
            await exchange.refuse(404, "Not Found")
        self.note("done", **details)

    async def _generate(self, exchange: Exchange) -> None:
        await self._sleep.until_awake(exchange)
        body, prompt = exchange.body, _count_words(exchange.body)
        if self.behaviour.status:
            await exchange.refuse(self.behaviour.status, "The engine was told to answer this.")
        elif body.get("model") not in {None, "", _name(self)}:
            await exchange.refuse(404, f"The model `{body['model']}` does not exist.")
        elif self.behaviour.no_images and '"image_url"' in json.dumps(body):
            await exchange.refuse(400, f"{_name(self)} is not a multimodal model")
        elif prompt > self.behaviour.max_model_len:
            limit = f"This model's maximum context length is {self.behaviour.max_model_len} tokens."
            await exchange.refuse(400, f"{limit} However, your request has {prompt} input tokens.")
        else:
            with self._counted(prompt):
                await self._stream_or_answer(exchange, self._new_answer(exchange, prompt))

    def _new_answer(self, exchange: Exchange, prompt: int) -> Answer:
        options = exchange.body.get("stream_options") or {}
        ident = exchange.headers.get("x-request-id") or str(self._requests)
        with_usage = bool(options.get("include_usage"))
        return ANSWERS[exchange.path](_name(self), ident, prompt, with_usage)

    @contextmanager
    def _counted(self, prompt: int) -> Iterator[None]:
        self._requests += 1
        self._prompt_tokens += prompt
        self._running += 1
        try:
            with self._sleep.working():
                yield
        finally:
            self._running -= 1

    async def _stream_or_answer(self, exchange: Exchange, answer: Answer) -> None:
        if not exchange.body.get("stream"):
            text = "".join([token async for token in self._tokens(exchange, answer)])
            await exchange.answer_json(answer.whole(text))
            return
        exchange.begin_stream()
        text = ""
        for piece in answer.begin():
            await exchange.send(piece)
        async for token in self._tokens(exchange, answer):
            for piece in answer.token(token):
                await exchange.send(piece)
            text += token
            await self._break_stream(exchange, answer)
        for piece in answer.end(text):
            await exchange.send(piece)
        await exchange.send(b"")

    async def _break_stream(self, exchange: Exchange, answer: Answer) -> None:
        """Do to a stream what the flags say is done half-way."""
        if answer.tokens != max(1, self.behaviour.tokens // 2):
            return
        if self.behaviour.bad_frame:
            await exchange.send(b'data: {"choices": [\n\n')
        if self.behaviour.cut_stream:
            exchange.cut()

    async def _tokens(self, exchange: Exchange, answer: Answer) -> AsyncIterator[str]:
        """Generate, one token at a time, and fail where the flags say so."""
        behaviour = self.behaviour
        count, answer.finish = self._length(exchange.body)
        aborts = self._sleep.aborts
        while answer.tokens < count:
            if self._sleep.aborts > aborts:
                answer.finish = "abort"
                return
            if self._is_hung or answer.tokens == behaviour.hang_after_tokens:
                # One hung request hangs the engine, as a dead core does; its health stays good.
                self._is_hung = True
                await exchange.until_gone()
            if answer.tokens == behaviour.die_after_tokens:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(behaviour.token_delay_s)
            exchange.check_client()
            answer.tokens += 1
            self._generated += 1
            yield self._word(exchange, answer.tokens)

    def _word(self, exchange: Exchange, number: int) -> str:
        """Return a token of an answer."""
        damage = self._sleep.damage
        if exchange.path == CompletionAnswer.path and exchange.body.get("temperature") == 0:
            cause = json.dumps([_name(self), exchange.body.get("prompt"), damage, number])
            return f" {zlib.crc32(cause.encode()):08x}"
        if damage:
            return f" {damage}{number}"
        return _name(self) if number == 1 else f" word{number}"

    def _length(self, body: JSONObject) -> tuple[int, Any]:
        """Return how many tokens the answer gets, and the reason for its end."""
        if self.behaviour.abort_finish:
            return max(1, self.behaviour.tokens // 2), "abort"
        names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
        limit = next((int(body[name]) for name in names if body.get(name)), self.behaviour.tokens)
        is_short = limit < self.behaviour.tokens
        return min(limit, self.behaviour.tokens), "length" if is_short else "stop"

    async def _tokenize(self, exchange: Exchange) -> None:
        count = _count_words(exchange.body)
        tokens = list(range(count))
        limit = self.behaviour.max_model_len
        await exchange.answer_json({"count": count, "max_model_len": limit, "tokens": tokens})

    async def _detokenize(self, exchange: Exchange) -> None:
        words = [f"word{token}" for token in exchange.body.get("tokens", ())]
        await exchange.answer_json({"prompt": " ".join(words)})

    async def _count_tokens(self, exchange: Exchange) -> None:
        await exchange.answer_json({"input_tokens": _count_words(exchange.body)})

    async def _embed(self, exchange: Exchange) -> None:
        await self._sleep.until_awake(exchange)
        given = exchange.body.get("input", "")
        texts = [given] if isinstance(given, str) else given
        data = [
            {"object": "embedding", "index": index, "embedding": [len(str(text)) / 1000, 0.5]}
            for index, text in enumerate(texts)
        ]
        count = _count_words(exchange.body)
        usage = {"prompt_tokens": count, "total_tokens": count}
        answer = {"object": "list", "model": _name(self), "data": data, "usage": usage}
        await exchange.answer_json(answer)

    def _models(self) -> JSONObject:
        model = {"id": _name(self), "object": "model", "created": 0, "owned_by": "vllm"}
        limit = self.behaviour.max_model_len
        return {"object": "list", "data": [{**model, "root": _name(self), "max_model_len": limit}]}

    def _metrics(self) -> str:
        values = {
            "num_requests_running": self._running,
            "num_requests_waiting": 0,
            "kv_cache_usage_perc": 0,
            "prompt_tokens_total": self._prompt_tokens,
            "generation_tokens_total": self._generated,
            "iteration_tokens_total_count": self._generated,
            "iteration_tokens_total_sum": self._generated,
        }
        labels = f'{{engine="0",model_name="{_name(self)}"}}'
        return "".join(f"vllm:{name}{labels} {value:.1f}\n" for name, value in values.items())


def _name(engine: FakeEngine) -> str:
    return engine.behaviour.served_model_name


def _count_words(body: JSONObject) -> int:
    """Return how many tokens a request has: the words of whatever holds its text."""
    given = [body.get(key) for key in ("system", "messages", "prompt", "input", "instructions")]
    return len(json.dumps([part for part in given if part]).split())


def log(line: str) -> None:
    """Write a log line at once."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - engines log like this


def leave_grandchild(engine: FakeEngine, listener: socket.socket) -> None:
    """Start a daemon that nothing but SIGKILL ends, as engines with helpers do by mistake."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if not engine.behaviour.grandchild_holds_port:
        listener.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine.note("grandchild")
    while True:
        signal.pause()


def main() -> None:
    """Run the program."""
    behaviour = parse(sys.argv[1:])
    engine = FakeEngine(behaviour)
    engine.note("start", model=behaviour.served_model_name)
    listener = socket.socket(socket.AF_INET6 if ":" in behaviour.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((behaviour.host, behaviour.port))
    log(f"listening on {behaviour.host}:{listener.getsockname()[1]} once loaded")
    if behaviour.grandchild or behaviour.grandchild_holds_port:
        leave_grandchild(engine, listener)
    status = asyncio.run(engine.serve(listener))
    engine.note("exit", status=status)
    sys.exit(status)


if __name__ == "__main__":
    main()
