"""Questions to a running engine that are not requests of clients: ready? answering? working?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import httpx2

from llm_backend.engines.base import EngineKind, HealthProbe
from llm_backend.runtimes.base import Engine

READY_TIMEOUT_S = 2.0

RECITAL: Final[Mapping[str, object]] = {
    "prompt": "The quick brown fox jumps over the lazy dog. One, two, three, four,",
    "max_tokens": 16,
    "temperature": 0,
    "seed": 0,
}
"""What an engine is asked for, to be known again by its answer."""


class NoAnswer(Exception):
    """An engine did not do what it was asked for; the message says what it did instead."""


class EngineProbe:
    """Asks engines over HTTP. A question that gets no answer in time is answered "no"."""

    def __init__(self) -> None:
        # trust_env off: a proxy of the environment must never see traffic to an engine.
        self._http = httpx2.AsyncClient(
            timeout=READY_TIMEOUT_S, trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self, engine: Engine, kind: EngineKind) -> bool:
        """Return whether the engine says that it can serve."""
        if engine.replicas is not None:
            return engine.replicas.up
        try:
            answer = await self._http.get(engine.url + kind.ready_path, headers=_headers(engine))
        except httpx2.HTTPError:
            return False
        return answer.status_code == httpx2.codes.OK

    async def health(self, engine: Engine, kind: EngineKind) -> dict[str, str]:
        """Return what each part of an engine says of its health: "ok", or what else there is."""
        lines = await asyncio.gather(*(self._line(engine, asked) for asked in kind.health))
        return {asked.name: line for asked, line in zip(kind.health, lines, strict=True)}

    async def _line(self, engine: Engine, asked: HealthProbe) -> str:
        port = engine.port if asked.helper is None else dict(engine.helpers)[asked.helper]
        url = f"http://{engine.host}:{port}{asked.path or '/'}"
        try:
            answer = await self._http.get(url, headers=_headers(engine))
        except httpx2.HTTPError as error:
            return f"no answer ({type(error).__name__})"
        if asked.path is None:
            return "ok"  # nobody says what it answers: that it does is all there is to know
        if answer.status_code != httpx2.codes.OK:
            return f"HTTP status {answer.status_code}"
        return "ok" if asked.field is None else _field(answer, asked.field)

    async def answers(self, engine: Engine, kind: EngineKind, timeout_s: float) -> str | None:
        """Let the engine generate one token.

        Returns:
            None when it did; else what it did instead, for people.
        """
        if kind.probe_path is None:
            return None
        body = {"model": engine.served_name, **kind.probe_body}
        try:
            answer = await self._http.post(
                engine.url + kind.probe_path,
                json=body,
                headers=_headers(engine),
                timeout=timeout_s,
            )
        except httpx2.TimeoutException:
            return f"no answer within {timeout_s:g} s"
        except httpx2.HTTPError as error:
            return f"the connection failed ({type(error).__name__})"
        if answer.status_code != httpx2.codes.OK:
            return f"HTTP status {answer.status_code}"
        return None

    async def recital(self, engine: Engine, kind: EngineKind, timeout_s: float) -> str | None:
        """Return what the engine makes of a fixed prompt, its likeliest tokens only.

        None where it generates no text, or gave no answer.
        """
        if kind.probe_path != "/v1/completions":
            return None
        body = {"model": engine.served_name, **RECITAL}
        with suppress(NoAnswer, ValueError, LookupError, TypeError):
            answer = await self._post(engine, kind.probe_path, body, timeout_s)
            return str(answer.json()["choices"][0]["text"])
        return None

    async def command(
        self, engine: Engine, path: str, body: Mapping[str, object] | None = None
    ) -> None:
        """Have the engine do something by one of its developer routes; the caller has a deadline.

        Raises:
            NoAnswer: it did not, or does not say so.
        """
        await self._post(engine, path, body, None)

    async def is_asleep(self, engine: Engine) -> bool:
        """Return whether an engine with vLLM's sleep routes says that it sleeps.

        Raises:
            NoAnswer: it does not say.
        """
        try:
            answer = await self._http.get(engine.url + "/is_sleeping", headers=_headers(engine))
            asleep = answer.json()["is_sleeping"]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            raise NoAnswer("it does not say whether it sleeps") from None
        return bool(asleep)

    async def _post(
        self,
        engine: Engine,
        path: str,
        body: Mapping[str, object] | None,
        timeout_s: float | None,
    ) -> httpx2.Response:
        url, route = engine.url + path, path.partition("?")[0]
        try:
            answer = await self._http.post(
                url, json=body, headers=_headers(engine), timeout=timeout_s
            )
        except httpx2.HTTPError as error:
            raise NoAnswer(f"{route} failed ({type(error).__name__})") from None
        if answer.status_code != httpx2.codes.OK:
            raise NoAnswer(f"{route} answered HTTP status {answer.status_code}")
        return answer

    async def work_done(self, engine: Engine, kind: EngineKind) -> float | None:
        """Return the engine's progress counter; None where it has none or does not answer."""
        if kind.progress_metric is None:
            return None
        try:
            answer = await self._http.get(engine.url + "/metrics", headers=_headers(engine))
        except httpx2.HTTPError:
            return None
        return read_counter(answer.text, kind.progress_metric)


def _headers(engine: Engine) -> dict[str, str]:
    return {} if engine.key is None else {"authorization": f"Bearer {engine.key}"}


def _field(answer: httpx2.Response, name: str) -> str:
    """Return the value of a field of a JSON object as it is shown."""
    try:
        value = answer.json()[name]
    except (ValueError, LookupError, TypeError):
        return f"no field {name!r} in the answer"
    return value if isinstance(value, str) else json.dumps(value)


def read_counter(text: str, name: str) -> float | None:
    """Return the sum of a counter over its labels in Prometheus text; None where it is missing."""
    total: float | None = None
    for line in text.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] in {"{", " "}:
            with suppress(ValueError):  # an engine may write anything
                total = (total or 0.0) + float(line.rsplit(" ", 1)[1])
    return total
