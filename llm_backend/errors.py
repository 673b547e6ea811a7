"""The whole error tree.

Every error that this product raises on purpose is one of these. Each class fixes the HTTP
`status`, the OpenAI `type` and the string `code`; an instance adds the message, what to do
next (`hint`), the offending parameter (`param`) and how long waiting helps (`retry_after_s`).

    LLMBackendError
    ├── RequestError                 the caller can mend it
    │   ├── InvalidRequest       400 invalid_request
    │   │   ├── InvalidJSON      400 invalid_json
    │   │   ├── PromptTooLong    400 context_length_exceeded
    │   │   └── NotSupported     400 unsupported_by_model
    │   ├── InvalidKey           401 invalid_api_key
    │   ├── Forbidden            403 insufficient_scope
    │   ├── ForeignHost          421 host_not_allowed
    │   ├── NotFound             404 not_found
    │   │   └── ModelNotFound    404 model_not_found
    │   ├── MethodNotAllowed     405 method_not_allowed
    │   ├── RequestTooSlow       408 request_timeout
    │   ├── Conflict             409 conflict
    │   │   ├── ModelNotActive   409 model_not_active
    │   │   └── SwitchSuperseded 409 switch_superseded
    │   ├── BodyTooLarge         413 body_too_large
    │   ├── WrongMediaType       415 unsupported_media_type
    │   ├── RateLimited          429 rate_limit_exceeded
    │   └── HeadersTooLarge      431 headers_too_large
    ├── ServiceError                 waiting, or an operator, can mend it
    │   ├── InternalError        500 internal_error
    │   ├── EngineBroke          502 engine_error
    │   ├── Overloaded           503 server_is_overloaded
    │   ├── ShuttingDown         503 shutting_down
    │   ├── EngineStartFailed    503 engine_start_failed
    │   ├── EngineGone           503 engine_gone
    │   ├── DeviceBusy           503 gpu_busy
    │   └── EngineTimeout        504 engine_timeout
    ├── SetupError                   for a person at a terminal; never crosses HTTP
    │   ├── ConfigError              a file or variable is wrong: names file, line, key
    │   ├── DownloadError            weights could not be fetched or verified
    │   └── AlreadyRunning           another gateway holds the device
    ├── ConnectionFailed             raised by the client: no answer came back
    └── StructuredOutputInvalid      raised by the client: the answer is not what was asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

MAX_RETRY_AFTER_S = 120
"""The official OpenAI SDKs stop retrying when `Retry-After` is above this many seconds."""


class LLMBackendError(Exception):
    """Base of the tree: a message for people, and what a machine needs to react.

    Args:
        message: What happened, with the offending value.
        hint: What to do next; appended to the message when rendered.
        param: The request field at fault, if one is.
        retry_after_s: Seconds after which trying again makes sense.
        log_tail: The engine's last log lines, when they explain the failure.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        log_tail: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.log_tail = tuple(log_tail)

    @property
    def text(self) -> str:
        """Message, hint and log lines as one text for the person who reads the answer."""
        parts = [self.message]
        if self.hint:
            parts.append(self.hint)
        if self.log_tail:
            parts.append("Last log lines of the engine:\n" + "\n".join(self.log_tail))
        return "\n".join(parts) if self.log_tail else " ".join(parts)

    @property
    def should_retry(self) -> bool:
        """Whether sending the same request again can succeed without anyone's help."""
        return self.status in {408, 429} or self.status >= 500

    def __str__(self) -> str:
        return self.text


class RequestError(LLMBackendError):
    """The caller can mend it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidRequest(RequestError):
    """A field is missing, malformed or out of range."""


class InvalidJSON(InvalidRequest):
    """The body is not strict JSON."""

    code = "invalid_json"


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the model's context or the gateway's limit."""

    code = "context_length_exceeded"


class NotSupported(InvalidRequest):
    """The model has not the capability that the route needs."""

    code = "unsupported_by_model"


class InvalidKey(RequestError):
    """No key, or one that is not configured."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(RequestError):
    """The key is known and its scope does not reach here."""

    status = 403
    type = "permission_error"
    code = "insufficient_scope"


class ForeignHost(RequestError):
    """The Host header names none of the hosts that this gateway answers for."""

    status = 421
    code = "host_not_allowed"


class NotFound(RequestError):
    """No such route or thing."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The catalog has no such model, or this set-up cannot run it."""

    code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The route exists, not with this method."""

    status = 405
    code = "method_not_allowed"


class RequestTooSlow(RequestError):
    """The client took too long to send its request."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"


class Conflict(RequestError):
    """The state of the system does not allow it now."""

    status = 409
    type = "conflict_error"
    code = "conflict"

    @property
    def should_retry(self) -> bool:
        """A person or another call has to change the state first."""
        return False


class ModelNotActive(Conflict):
    """Switching is manual and the model asked for is not awake."""

    code = "model_not_active"


class SwitchSuperseded(Conflict):
    """A later switch replaced this one before it was done."""

    code = "switch_superseded"


class BodyTooLarge(RequestError):
    """The body is over the configured limit."""

    status = 413
    code = "body_too_large"


class WrongMediaType(RequestError):
    """POST bodies must be application/json, without a content encoding."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(RequestError):
    """This key used up its share for now."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class HeadersTooLarge(RequestError):
    """Too many headers, or too large ones."""

    status = 431
    code = "headers_too_large"


class ServiceError(LLMBackendError):
    """Waiting, or an operator, can mend it."""

    status = 503
    type = "api_error"
    code = "service_unavailable"


class InternalError(ServiceError):
    """A defect of the gateway. The request id finds it in the log."""

    status = 500
    code = "internal_error"


class EngineBroke(ServiceError):
    """The engine answered something that is not a valid answer, or broke off."""

    status = 502
    code = "engine_error"


class Overloaded(ServiceError):
    """The queue is full, or the wait in it was over its limit."""

    type = "overloaded_error"
    code = "server_is_overloaded"


class ShuttingDown(ServiceError):
    """The gateway is stopping and takes no new request."""

    code = "shutting_down"


class EngineStartFailed(ServiceError):
    """The engine of the model could not be brought up."""

    code = "engine_start_failed"

    @property
    def should_retry(self) -> bool:
        """Starts are long, and most failures last: repeating is not for a library to decide."""
        return False


class EngineGone(ServiceError):
    """The engine exited, or was stopped, while it worked on the request."""

    code = "engine_gone"


class DeviceBusy(ServiceError):
    """The memory that the model reserves is not free on its device."""

    code = "gpu_busy"


class EngineTimeout(ServiceError):
    """The engine did not answer in time."""

    status = 504
    type = "timeout_error"
    code = "engine_timeout"


class SetupError(LLMBackendError):
    """For a person at a terminal: what is wrong and the next command to type."""

    code = "setup_error"
    exit_code: ClassVar[int] = 1


class ConfigError(SetupError):
    """A file or variable is wrong; the message names it, the line and the key."""

    code = "config_error"
    exit_code = 78
    """EX_CONFIG of sysexits.h."""


class DownloadError(SetupError):
    """Weights could not be fetched or verified."""

    code = "download_error"
    exit_code = 69
    """EX_UNAVAILABLE of sysexits.h."""


class AlreadyRunning(SetupError):
    """Another gateway holds the device."""

    code = "already_running"
    exit_code = 75
    """EX_TEMPFAIL of sysexits.h."""


class ConnectionFailed(LLMBackendError):
    """Raised by the client: the gateway could not be reached, or its answer broke off."""

    status = 0
    type = "connection_error"
    code = "connection_failed"


class StructuredOutputInvalid(LLMBackendError):
    """Raised by the client: the model's answer is not what the schema asks for.

    Attributes:
        answer: What the model answered, the last time that it was asked.
    """

    status = 0
    type = "structured_output_error"
    code = "structured_output_invalid"

    def __init__(self, message: str, *, answer: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.answer = answer
