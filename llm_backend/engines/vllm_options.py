"""The options file of a vLLM engine, and whether it agrees with the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llm_backend.config.catalog import HubWeights, ModelSpec, VllmEngine
from llm_backend.errors import ConfigError


def read_options(spec: ModelSpec) -> Mapping[str, Any]:
    """Return the options in the file of a model's engine; empty where it names none.

    Raises:
        ConfigError: the file is missing, or is no mapping.
    """
    if not isinstance(spec.engine, VllmEngine) or spec.engine.config_file is None:
        return {}
    path = Path(spec.engine.config_file)
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {spec.id!r} is configured there.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(options, dict):
        raise ConfigError(f"{path}: it needs lines of the form `name: value`.")
    return options


def disagreements(spec: ModelSpec, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the options file of a container's engine contradicts the catalog."""
    for name, catalog in _wanted(spec).items():
        has = options.get(name)
        if catalog is not None and has != catalog:
            shown = "is missing" if has is None else f"is {has!r}"
            yield f"{name} {shown}, and the catalog says {catalog!r}"
    if options.get("host") != "0.0.0.0":  # inside its container
        yield "host is not 0.0.0.0: the gateway could not reach the engine in its container"


def _wanted(spec: ModelSpec) -> dict[str, Any]:
    """Return what the options should be; None where the catalog leaves it open."""
    weights = spec.weights if isinstance(spec.weights, HubWeights) else None
    return {
        "model": weights.repo if weights else None,
        "revision": weights.revision if weights else None,
        "served-model-name": spec.id,
        "port": spec.port or None,
        "max-model-len": spec.max_model_len,
    }
