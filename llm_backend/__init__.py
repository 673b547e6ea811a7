"""Many language models on one GPU behind one OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_backend.errors import (
    AlreadyRunning,
    BodyTooLarge,
    ConfigError,
    Conflict,
    ConnectionFailed,
    DeviceBusy,
    DownloadError,
    EngineBroke,
    EngineGone,
    EngineStartFailed,
    EngineTimeout,
    Forbidden,
    ForeignHost,
    HeadersTooLarge,
    InternalError,
    InvalidJSON,
    InvalidKey,
    InvalidRequest,
    LLMBackendError,
    MethodNotAllowed,
    ModelNotActive,
    ModelNotFound,
    NotFound,
    NotSupported,
    Overloaded,
    PromptTooLong,
    RateLimited,
    RequestError,
    RequestTooSlow,
    ServiceError,
    SetupError,
    ShuttingDown,
    StructuredOutputInvalid,
    SwitchSuperseded,
    WrongMediaType,
)

if TYPE_CHECKING:
    from llm_backend.client import LLMClient, LLMClientSync
    from llm_backend.inference import InferenceService

__version__ = "0.1.0"

__all__ = [
    "AlreadyRunning",
    "BodyTooLarge",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "DeviceBusy",
    "DownloadError",
    "EngineBroke",
    "EngineGone",
    "EngineStartFailed",
    "EngineTimeout",
    "Forbidden",
    "ForeignHost",
    "HeadersTooLarge",
    "InferenceService",
    "InternalError",
    "InvalidJSON",
    "InvalidKey",
    "InvalidRequest",
    "LLMBackendError",
    "LLMClient",
    "LLMClientSync",
    "MethodNotAllowed",
    "ModelNotActive",
    "ModelNotFound",
    "NotFound",
    "NotSupported",
    "Overloaded",
    "PromptTooLong",
    "RateLimited",
    "RequestError",
    "RequestTooSlow",
    "ServiceError",
    "SetupError",
    "ShuttingDown",
    "StructuredOutputInvalid",
    "SwitchSuperseded",
    "WrongMediaType",
    "__version__",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # httpx2 takes 100 ms, and the switcher with all that it drives half a second.
        if name in {"LLMClient", "LLMClientSync"}:
            from llm_backend import client  # noqa: PLC0415  # see above

            return getattr(client, name)
        if name == "InferenceService":
            from llm_backend.inference import InferenceService  # noqa: PLC0415  # see above

            return InferenceService
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
