"""The project that a command works on: its root, settings, catalog and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llm_backend.config import Catalog, Settings, load_catalog, load_settings
from llm_backend.config.catalog import ModelSpec
from llm_backend.config.root import find_root
from llm_backend.engines.base import file_name
from llm_backend.errors import ModelNotFound


@dataclass(frozen=True)
class Project:
    """One checkout with its settings."""

    root: Path
    settings: Settings

    @cached_property
    def catalog(self) -> Catalog:
        """All models and devices.

        Raises:
            ConfigError: the file is wrong; names file, line and key.
        """
        return load_catalog(self.settings.catalog)

    @property
    def state_dir(self) -> Path:
        """Where a running gateway leaves its record, key and logs."""
        return self.settings.state_dir

    @property
    def lock_dir(self) -> Path:
        """Where the kernel locks lie."""
        return self.settings.lock_dir or self.state_dir / "locks"

    @property
    def models_dir(self) -> Path:
        """Where fetched weights lie."""
        return self.settings.models_dir

    @property
    def gateway_log(self) -> Path:
        """What a detached gateway writes."""
        return self.state_dir / "logs" / "gateway.log"

    def engine_log(self, model: str) -> Path:
        """Return what the engine of a model writes."""
        return self.state_dir / "logs" / f"{file_name(model)}.log"

    def model(self, name: str) -> ModelSpec:
        """Return the model with this id or alias.

        Raises:
            ModelNotFound: the catalog has no such model.
        """
        spec = self.catalog.find(name)
        if spec is None:
            raise ModelNotFound(
                f"The catalog has no model {name!r}; it has {', '.join(self.catalog.models)}.",
                hint="See them: llm-backend models",
            )
        return spec


def open_project(
    flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Project:
    """Find the project and load its settings.

    Args:
        flags: Settings given on the command line, by dotted name, such as `server.port`.
        environ: The environment; by default that of this process.

    Raises:
        ConfigError: no project is found, or a setting is wrong.
    """
    environ = os.environ if environ is None else environ
    root = find_root(environ, Path.cwd())
    return Project(root, load_settings(root, flags or {}, environ))
