"""Questions to a running engine that are not requests of clients: ready? answering? working?"""

from __future__ import annotations

from contextlib import suppress

import httpx2

from llm_backend.engines.base import EngineKind
from llm_backend.runtimes.base import Engine

READY_TIMEOUT_S = 2.0


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
        try:
            answer = await self._http.get(engine.url + kind.ready_path, headers=_headers(engine))
        except httpx2.HTTPError:
            return False
        return answer.status_code == httpx2.codes.OK

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


def read_counter(text: str, name: str) -> float | None:
    """Return the sum of a counter over its labels in Prometheus text; None where it is missing."""
    total: float | None = None
    for line in text.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] in {"{", " "}:
            with suppress(ValueError):  # an engine may write anything
                total = (total or 0.0) + float(line.rsplit(" ", 1)[1])
    return total
