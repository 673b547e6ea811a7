"""What the labels of the metrics say here: out of the settings, the catalog and the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_backend import __version__
from llm_backend.config.catalog import ModelSpec
from llm_backend.errors import LLMBackendError, RequestError, ServiceError
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.fleet import Fleet
from llm_backend.switching.entry import Entry
from llm_backend.switching.forecast import START
from llm_backend.switching.states import State
from llm_backend.telemetry.vocabulary import ModelLabels, Vocabulary

STAGES = ("start", "adopt", *START, "stop", "drain")
"""The stages of a start and a stop, as the feed tells them."""


def vocabulary_of(
    fleet: Fleet, entries: Iterable[Entry], keys: Iterable[str], setup: str, *, may_keep: bool
) -> Vocabulary:
    """Return what labels can say.

    Args:
        fleet: The models.
        entries: Those that can run here.
        keys: Names that requests can come under.
        setup: How engines are run.
        may_keep: Whether there is a response cache.
    """
    specs = fleet.catalog.models
    return Vocabulary(
        models=[_model(specs[e.needs.model], e, may_keep=may_keep) for e in entries],
        routes=list(ENDPOINTS),
        keys=list(dict.fromkeys(keys)),
        codes=sorted({*codes(RequestError), *codes(ServiceError)}),
        states=[state.value for state in State],
        stages=STAGES,
        devices=list(fleet.catalog.devices),
        build=(__version__, setup),
    )


def _model(spec: ModelSpec, entry: Entry, *, may_keep: bool) -> ModelLabels:
    served = [e for e in ENDPOINTS.values() if e.capability in spec.capabilities]
    return ModelLabels(
        name=spec.id,
        routes={endpoint.path: may_keep and endpoint.cacheable for endpoint in served},
        devices=list(entry.needs.mib),
        rungs=sorted(entry.needs.rungs),
    )


def codes(error: type[LLMBackendError]) -> Iterator[str]:
    """Yield the codes of a branch of the error tree."""
    yield error.code
    for child in error.__subclasses__():
        yield from codes(child)
