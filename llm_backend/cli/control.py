"""The running gateway, as the commands find it and talk to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import httpx2
import psutil

from llm_backend.client.failures import answered
from llm_backend.errors import ConnectionFailed, InvalidJSON, InvalidKey, LLMBackendError
from llm_backend.wire import JSONObject, decode_object

ANSWER_S = 10.0
"""How long the gateway may take over an answer that waits for no engine."""

CLOCK_SLACK_S = 2.0
"""How far two readings of one process's start may differ after the wall clock was set."""


LIVE_S = 2.0
"""How long a gateway may take to say that it lives."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a gateway writes about itself into `gateway.json`.

    Attributes:
        pid: Its process id; inside its container, where it runs in one.
        create_time: When that process began, in seconds since 1970.
        url: Where it is reached.
        version: Its version.
        setup: `local` or `compose`.
        log: The file that it writes its log to; empty for none.
    """

    pid: int
    create_time: float
    url: str
    version: str
    setup: str
    log: str

    @property
    def in_container(self) -> bool:
        """Whether it runs in a container, whose processes are not ours to look at."""
        return self.setup == "compose"

    @property
    def where(self) -> str:
        """What runs it, for people: `process 4711` or `its container`."""
        return "its container" if self.in_container else f"process {self.pid}"

    @property
    def process(self) -> psutil.Process | None:
        """The gateway's process; None once it has ended, or where it is in a container."""
        if self.in_container:
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) <= CLOCK_SLACK_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def read_record(state_dir: Path) -> RunRecord | None:
    """Return the record that a gateway left, whether it still runs or not."""
    try:
        data = json.loads((state_dir / "gateway.json").read_bytes())
        return RunRecord(
            pid=int(data["pid"]),
            create_time=float(data["create_time"]),
            url=reachable(str(data["url"])),
            version=str(data.get("version", "")),
            setup=str(data.get("setup", "")),
            log=str(data.get("log") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reachable(url: str) -> str:
    """Return an address that this machine can call where the gateway listens on every one."""
    return url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:").rstrip("/")


def find_gateway(state_dir: Path) -> RunRecord | None:
    """Return the gateway that runs on this state directory; None where none does."""
    record = read_record(state_dir)
    if record is None:
        return None
    lives = _answers(record.url) if record.in_container else record.process is not None
    return record if lives else None


def _answers(url: str) -> bool:
    """Return whether a gateway answers there; of one in a container nothing else is to be seen."""
    try:
        with httpx2.Client(timeout=LIVE_S, trust_env=False) as http:
            return http.get(f"{url}/health/live").status_code == 200
    except httpx2.HTTPError:
        return False


def require_gateway(state_dir: Path) -> RunRecord:
    """Return the running gateway.

    Raises:
        ConnectionFailed: none runs on this state directory.
    """
    record = find_gateway(state_dir)
    if record is None:
        raise ConnectionFailed("The gateway does not run.", hint="Type: llm-backend start")
    return record


def admin_key(state_dir: Path) -> str | None:
    """Return the key with the scope `admin`; None where none is readable."""
    try:
        return (state_dir / "admin.key").read_text().strip()
    except OSError:
        return None


def admin_headers(state_dir: Path) -> dict[str, str]:
    """Return the header that proves the scope `admin`; empty where no key is readable."""
    key = admin_key(state_dir)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


class Control:
    """The control API of a running gateway. Use as a context manager.

    Args:
        record: The gateway to talk to.
        state_dir: Where its admin key lies.
    """

    def __init__(self, record: RunRecord, state_dir: Path) -> None:
        self._record = record
        # Straight to the loopback address: a proxy of the environment is never asked.
        self._http = httpx2.Client(
            base_url=record.url, headers=admin_headers(state_dir), timeout=ANSWER_S, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_live(self) -> bool:
        """Return whether the gateway answers at all."""
        try:
            return self._http.get("/health/live", timeout=2.0).status_code == 200
        except httpx2.HTTPError:
            return False

    def status(self) -> JSONObject:
        """Return the body of `GET /status`."""
        return self._call("GET", "/status")

    def health(self) -> JSONObject:
        """Return the body of `GET /health`."""
        return self._call("GET", "/health")

    def log(self, model: str, lines: int) -> list[str]:
        """Return the last lines of an engine's log."""
        path = f"/logs/{quote(model)}"
        with plain_transport_errors(self._record, ANSWER_S):
            response = self._http.get(path, params={"lines": lines})
        if not response.is_success:
            raise _refusal(response)
        return response.text.splitlines()

    def unload(self, patience_s: float) -> list[str]:
        """Unload every model; return the ids of those that were loaded."""
        body = self._call("POST", "/api/v1/inference/unload", {}, patience_s)
        return [str(model) for model in body.get("unloaded", [])]

    def take_lease(self, wish: JSONObject, patience_s: float) -> JSONObject:
        """Have a device freed of engines; return the lease once its memory is free."""
        return self._call("POST", "/api/v1/device/lease", wish, patience_s)

    def leases(self) -> JSONObject:
        """Return the device leases that hold."""
        return self._call("GET", "/api/v1/device/lease")

    def give_lease(self, ident: str) -> JSONObject:
        """Give a device back before its time."""
        return self._call("DELETE", f"/api/v1/device/lease/{quote(ident, safe='')}")

    def clear_cache(self, model: str | None) -> JSONObject:
        """Forget the cached answers, of one model or of all."""
        return self._call("POST", "/api/v1/cache/clear", {"model": model} if model else {})

    def _call(
        self, method: str, path: str, body: JSONObject | None = None, timeout_s: float = ANSWER_S
    ) -> JSONObject:
        with plain_transport_errors(self._record, timeout_s):
            response = self._http.request(method, path, json=body, timeout=timeout_s)
        return answer(response)


@contextmanager
def plain_transport_errors(record: RunRecord, timeout_s: float) -> Iterator[None]:
    """Turn what the transport raises into a sentence and the next command.

    Raises:
        ConnectionFailed: the gateway did not answer, or not in time.
    """
    try:
        yield
    except httpx2.TimeoutException:
        raise ConnectionFailed(
            f"The gateway at {record.url} did not answer within {timeout_s:.0f} s.",
            hint="See what it does: llm-backend logs gateway",
        ) from None
    except httpx2.HTTPError as error:
        raise ConnectionFailed(
            f"The gateway ({record.where}) does not answer at {record.url}: {error}.",
            hint="See why: llm-backend logs gateway",
        ) from None


def answer(response: httpx2.Response) -> JSONObject:
    """Return the JSON object of a good answer.

    Raises:
        LLMBackendError: the gateway answered with an error: its class, its message.
        ConnectionFailed: no gateway answered, but something else did.
    """
    if not response.is_success:
        raise _refusal(response)
    try:
        return decode_object(response.content)
    except InvalidJSON:
        raise ConnectionFailed(
            f"{response.request.url} answered {response.status_code}, and no JSON object.",
            hint="Does another program use this port? Type: llm-backend doctor",
        ) from None


def _refusal(response: httpx2.Response) -> LLMBackendError:
    error = answered(response).error
    if isinstance(error, InvalidKey):
        error.hint = "The key is in admin.key of the state directory: llm-backend config check"
    return error
