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
    SwitchSuperseded,
    WrongMediaType,
)

if TYPE_CHECKING:
    from llm_backend.client import LLMClient

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
    "InternalError",
    "InvalidJSON",
    "InvalidKey",
    "InvalidRequest",
    "LLMBackendError",
    "LLMClient",
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
    "SwitchSuperseded",
    "WrongMediaType",
    "__version__",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "LLMClient":
            from llm_backend.client import LLMClient  # noqa: PLC0415  # httpx2 takes 100 ms

            return LLMClient
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
