"""What the routes work with: built once by the composition root, handed in by FastAPI."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from llm_backend.gateway.assets import Assets
from llm_backend.gateway.auth import Authenticator
from llm_backend.gateway.cache import ResponseCache
from llm_backend.gateway.fleet import Fleet
from llm_backend.gateway.report import Reporter
from llm_backend.gateway.timeline import Timeline
from llm_backend.switching.switcher import Switcher
from llm_backend.telemetry.metrics import Metrics


@dataclass(slots=True)
class Services:
    """The parts of a running gateway.

    Attributes:
        ready: Whether what an earlier gateway left has been taken over.
        stopping: Set once the gateway stops; answers without an end of their own end then.
    """

    authenticator: Authenticator
    cache: ResponseCache
    fleet: Fleet
    metrics: Metrics
    reporter: Reporter
    switcher: Switcher
    timeline: Timeline
    assets: Assets
    ready: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def services(request: Request) -> Services:
    """Return the services of the application that serves a request."""
    found: Services = request.app.state.services
    return found


Service = Annotated[Services, Depends(services)]


def _infer(request: Request, service: Service) -> str:
    return service.authenticator.authorise(dict(request.headers.raw), "infer")


def _admin(request: Request, service: Service) -> str:
    return service.authenticator.authorise(dict(request.headers.raw), "admin")


InferKey = Annotated[str, Depends(_infer)]
"""The name of a key that opens `infer`; without one the route answers 401 or 403."""

AdminKey = Annotated[str, Depends(_admin)]
"""The name of a key that opens `admin`."""
