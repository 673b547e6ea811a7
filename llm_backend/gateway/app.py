"""The application: a small ASGI shell that takes the inference routes, FastAPI for all others.

FastAPI's router and middleware cost more than the whole proxying of a request, so the inference
routes never reach them. The guard covers both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_backend import __version__
from llm_backend.errors import (
    BodyTooLarge,
    InternalError,
    InvalidJSON,
    InvalidRequest,
    LLMBackendError,
    MethodNotAllowed,
    NotFound,
)
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.exchange import Exchange
from llm_backend.gateway.guard import Guard, RequestIds, cors_headers, preflight_headers
from llm_backend.gateway.pipeline import Pipeline
from llm_backend.gateway.routes import console, control, device, health, openai
from llm_backend.gateway.services import Services
from llm_backend.gateway.text_api import TRANSLATED
from llm_backend.telemetry.logs import defect
from llm_backend.wire import encodable, error_object, retry_after, shown

log = structlog.get_logger(__name__)

CONTROL_BODY_BYTES = 64 * 1024


class Gateway:
    """The ASGI application.

    Args:
        guard: Looks at every request first.
        pipeline: Handles the inference routes.
        api: Handles all others.
        refused: Is told the code of each error that the guard answers with.
    """

    def __init__(
        self, guard: Guard, pipeline: Pipeline, api: ASGIApp, refused: Callable[[str], None]
    ) -> None:
        self._guard = guard
        self._ids = RequestIds()
        self._pipeline = pipeline
        self._api = api
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        kind = TRANSLATED.get(scope["path"], Exchange)
        exchange = kind(scope, receive, send, self._ids.of)
        try:
            await self._served(scope, receive, send, exchange)
        except LLMBackendError as error:
            if exchange.status is None:  # else the pipeline has counted it
                self._refused(error.code)
            await exchange.fail(error)
        except Exception as error:  # noqa: BLE001  # the edge: whatever it is, it is answered
            told = defect(error)
            log.error("request_defect", request_id=exchange.request_id, **told)  # noqa: TRY400  # what it says may be a prompt
            await exchange.fail(_defect())

    def _served(
        self, scope: Scope, receive: Receive, send: Send, exchange: Exchange
    ) -> Awaitable[None]:
        endpoint = ENDPOINTS.get(scope["path"])
        if endpoint is not None:
            exchange.dialect = endpoint.dialect
        page = self._guard.check(scope["method"], scope["headers"], exchange.headers)
        if page is not None:
            exchange.extra += cors_headers(page)
        if page is not None and scope["method"] == "OPTIONS":
            wanted = exchange.headers.get(b"access-control-request-headers", b"")
            exchange.extra += preflight_headers(wanted)
            return exchange.answer(200, b"text/plain", b"")
        if endpoint is None:
            return self._api(scope, _bounded(receive), exchange.tagging(send))
        if scope["method"] != "POST":
            exchange.extra.append((b"allow", b"POST"))
            raise MethodNotAllowed(f"{endpoint.path} takes POST, not {scope['method']}.")
        return self._pipeline.run(exchange, endpoint)


def _defect() -> InternalError:
    return InternalError(
        "The gateway failed on this request by a defect of its own.",
        hint="Its log tells more under the id of the header x-request-id.",
    )


def _bounded(receive: Receive) -> Receive:
    """Limit the body of a control request."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > CONTROL_BODY_BYTES:
            raise BodyTooLarge(f"A control request has at most {CONTROL_BODY_BYTES} bytes.")
        return message

    return bounded


def build_api(services: Services) -> FastAPI:
    """Build the FastAPI application of the control routes."""
    api = FastAPI(
        title="llm-backend",
        version=__version__,
        summary="Many language models on one GPU behind one endpoint",
        redoc_url=None,
    )
    api.state.services = services
    for router in (
        health.router,
        openai.router,
        control.router,
        device.router,
        console.router,
    ):
        api.include_router(router)
    api.add_exception_handler(LLMBackendError, _on_error)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(Exception, _on_defect)
    return api


def render(error: LLMBackendError, extra: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer that shows an error."""
    headers = {**(extra or {}), "x-should-retry": "true" if error.should_retry else "false"}
    if (after := retry_after(error)) is not None:
        headers["retry-after"] = after
    return JSONResponse(error_object(error), status_code=error.status, headers=headers)


def _refuse(
    request: Request, error: LLMBackendError, extra: Mapping[str, str] | None = None
) -> JSONResponse:
    services: Services = request.app.state.services
    services.metrics.refuse(error.code)
    return render(error, extra)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, LLMBackendError):
        raise error
    return _refuse(request, error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        text = f"The body is not valid JSON: {first['ctx']['error']}."
        return _refuse(request, InvalidJSON(text))
    # The place is ("body", field, ...) or ("query", name): its first part is no name of the API.
    field = encodable(".".join(str(part) for part in first["loc"][1:])) or "body"
    given = "" if first["type"] == "missing" else f", not {shown(first['input'])}"
    return _refuse(request, InvalidRequest(f"{field}: {first['msg']}{given}.", param=field))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, LLMBackendError):  # FastAPI wraps what `receive` raises
        return _refuse(request, error.__cause__)
    if error.status_code == 404:
        text = f"There is no {request.scope['path'][:200]!r} here."
        return _refuse(request, NotFound(text, hint="See /docs."))
    if error.status_code == 405:
        refusal = MethodNotAllowed(f"{request.method} is not a method of this route.")
        return _refuse(request, refusal, error.headers)
    return _refuse(request, InvalidJSON("The body is not valid JSON."))


async def _on_defect(request: Request, _: Exception) -> JSONResponse:
    # Starlette raises it again once this is sent, and `Gateway` writes it down.
    return _refuse(request, _defect())
