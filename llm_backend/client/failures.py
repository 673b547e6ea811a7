"""From an answer, or its absence, to an error of the tree."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import httpx2

from llm_backend.client.view import View
from llm_backend.errors import (
    ConnectionFailed,
    EngineBroke,
    InvalidJSON,
    LLMBackendError,
    RequestError,
    ServiceError,
)
from llm_backend.wire import JSONObject, decode_object

V = TypeVar("V", bound=View)

_ROOTS: Final = (RequestError, ServiceError)

_NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""After these the server has seen nothing of the request."""


class HTTPAnswer(Exception):
    """The HTTP answer that an error was made from: the error's `__cause__`.

    Attributes:
        status: The HTTP status.
        url: What was asked.
        request_id: What finds the request in the gateway's log; None where none was sent.
        body: The answer's body; empty for a stream.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.url = str(response.request.url)
        self.request_id: str | None = response.headers.get("x-request-id")
        self.body = _body(response)
        super().__init__(f"{self.url} answered {self.status}")


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that failed.

    Attributes:
        error: What the caller will see if there is no other try.
        repeatable: Whether sending the request again is safe and may help.
    """

    error: LLMBackendError
    repeatable: bool


def _classes_by_code() -> dict[str, type[LLMBackendError]]:
    # Breadth first, roots last: where a class shares its code with a base, a branch beats the
    # root and a general class beats its special cases.
    table: dict[str, type[LLMBackendError]] = {}
    todo = deque(child for root in _ROOTS for child in root.__subclasses__())
    while todo:
        error = todo.popleft()
        table.setdefault(error.code, error)
        todo.extend(error.__subclasses__())
    for root in _ROOTS:
        table.setdefault(root.code, root)
    return table


def _classes_by_status() -> dict[int, type[LLMBackendError]]:
    # Without a code, a status that several classes share only tells whose fault it was.
    table: dict[int, type[LLMBackendError]] = {}
    for root in _ROOTS:
        sharing = Counter(error.status for error in root.__subclasses__())
        for error in root.__subclasses__():
            table[error.status] = error if sharing[error.status] == 1 else root
    return table


_BY_CODE: Final = _classes_by_code()
_BY_STATUS: Final = _classes_by_status()


def error_of(code: object, status: int) -> type[LLMBackendError]:
    """Return the class of the tree for an error code and an HTTP status; the code weighs more."""
    if isinstance(code, str) and code in _BY_CODE:
        return _BY_CODE[code]
    return _BY_STATUS.get(status, RequestError if 400 <= status < 500 else ServiceError)


def answered(response: httpx2.Response) -> Failure:
    """Return the failure that a whole answer outside 200 to 299 stands for."""
    if response.is_redirect:
        return Failure(_with_answer(_moved(response), response), repeatable=False)
    detail = _detail(response)
    error = error_of(detail.get("code"), response.status_code)(
        _message(detail, response),
        param=detail["param"] if isinstance(detail.get("param"), str) else None,
        retry_after_s=_retry_after_s(response.headers),
    )
    said = response.headers.get("x-should-retry")
    repeatable = error.should_retry if said not in {"true", "false"} else said == "true"
    return Failure(_with_answer(error, response), repeatable)


def parse(view: type[V], body: bytes, response: httpx2.Response) -> V:
    """Return the typed view of a body, or of one event of a stream.

    Raises:
        LLMBackendError: the body is an error object, which is how a stream fails after a 200.
        EngineBroke: it is not what it should be.
    """
    try:
        data = decode_object(body)
        if not data.get("error"):
            return view(data)
        error = _reported(data["error"], response)
    except InvalidJSON as problem:
        error = malformed(response, f"a {view.__name__}", problem.message)
    except ValueError as problem:
        error = malformed(response, f"a {view.__name__}", f"{problem}.")
    raise error


def malformed(response: httpx2.Response, wanted: str, reason: str) -> LLMBackendError:
    """Return the error for an answer that is not what it should be."""
    error = EngineBroke(
        f"{response.request.url} answered something that is not {wanted}: {reason}",
        hint="Is base_url the address of the gateway?",
    )
    return _with_answer(error, response)


def broken(response: httpx2.Response, reason: str) -> LLMBackendError:
    """Return the error for a stream that does not end as it should."""
    error = ConnectionFailed(
        f"The stream of {response.request.url} broke off: {reason}.",
        hint="What came before is not the whole answer.",
    )
    return _with_answer(error, response)


def unanswered(error: httpx2.RequestError, request: httpx2.Request, root: str) -> Failure:
    """Return the failure of a request that got no answer.

    A POST is repeated only where the server cannot have seen it: the engine may be at work on it.
    """
    reason = reason_of(error)
    if isinstance(error, _NEVER_SENT):
        failed = ConnectionFailed(
            f"Nothing answers at {root}: {reason}.",
            hint="Start the gateway with `llm-backend start`, or set base_url (or LLM_BASE_URL) "
            "to where it runs.",
        )
    else:
        failed = ConnectionFailed(f"{request.url} gave no answer: {reason}.")
    failed.__cause__ = error
    return Failure(failed, isinstance(error, _NEVER_SENT) or request.method == "GET")


def reason_of(error: httpx2.RequestError) -> str:
    """Return what went wrong on the wire, without a full stop."""
    return str(error).rstrip(".") or type(error).__name__


def _reported(detail: object, response: httpx2.Response) -> LLMBackendError:
    fields = detail if isinstance(detail, dict) else {"message": detail}
    message = fields.get("message") or f"{response.request.url} reported the error {fields}."
    error = error_of(fields.get("code"), EngineBroke.status)(str(message))
    return _with_answer(error, response)


def _with_answer(error: LLMBackendError, response: httpx2.Response) -> LLMBackendError:
    answer = HTTPAnswer(response)
    error.__cause__ = answer
    if answer.request_id:
        error.add_note(f"Request id: {answer.request_id}")
    return error


def _body(response: httpx2.Response) -> bytes:
    try:
        return response.content
    except httpx2.ResponseNotRead:
        return b""


def _moved(response: httpx2.Response) -> ConnectionFailed:
    target = response.headers.get("location", "")
    return ConnectionFailed(
        f"{response.request.url} redirects to {target!r}. Redirects are not followed: the key "
        "would go along.",
        hint="Set base_url to the address that serves the API.",
    )


def _detail(response: httpx2.Response) -> JSONObject:
    """Return the inside of an error object, whichever shape the server gives it."""
    try:
        body = decode_object(response.content)
    except InvalidJSON:
        return {}
    detail = body.get("error") or body.get("detail") or body.get("message")
    return detail if isinstance(detail, dict) else {"message": detail}


def _message(detail: JSONObject, response: httpx2.Response) -> str:
    message = detail.get("message")
    if isinstance(message, str) and message:
        return message
    text = " ".join(_body(response).decode("utf-8", "replace").split())
    shown = f": {text[:200]}{'…' * (len(text) > 200)}" if text else "."
    return f"{response.request.url} answered {response.status_code}{shown}"


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Return what `Retry-After` asks for, in seconds; None where it is absent or makes no sense."""
    value: Any = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(date: str) -> float:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return math.nan
