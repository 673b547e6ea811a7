"""The models as the edge sees them: which there are, which run here, and which can do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_backend.config.catalog import Capability, Catalog, ModelSpec
from llm_backend.errors import ModelNotFound, NotSupported


@dataclass(frozen=True, slots=True)
class Fleet:
    """The catalog, and what of it this set-up can run.

    Attributes:
        catalog: All models.
        unavailable: Why a model cannot run here, by id; all others can.
        default: The model for requests that name none while none is awake.
    """

    catalog: Catalog
    unavailable: Mapping[str, str]
    default: str | None

    def find(self, name: str) -> ModelSpec:
        """Return the model with this id or alias.

        Raises:
            ModelNotFound: there is none, or this set-up cannot run it.
        """
        spec = self.catalog.find(name)
        if spec is None:
            raise ModelNotFound(
                f"The model {_short(name)} does not exist.",
                hint=f"There are: {', '.join(self.available())}.",
                param="model",
            )
        if spec.id in self.unavailable:
            raise ModelNotFound(
                f"The model {spec.id} cannot run here: {self.unavailable[spec.id]}.",
                hint=f"There are: {', '.join(self.available())}.",
                param="model",
            )
        return spec

    def require(self, spec: ModelSpec, capability: Capability) -> None:
        """Check that a model can do something.

        Raises:
            NotSupported: it cannot; names the models that can.
        """
        if capability in spec.capabilities:
            return
        raise NotSupported(
            f"The model {spec.id} cannot do {capability.value}.",
            hint=f"Models that can: {self._able(capability)}.",
            param="model",
        )

    def _able(self, capability: Capability) -> str:
        able = [spec.id for spec in self.catalog if capability in spec.capabilities]
        here = [model for model in able if model not in self.unavailable]
        if here:
            return ", ".join(here)
        elsewhere = f" ({', '.join(able)} of the catalog cannot run here)" if able else ""
        return f"none in this set-up{elsewhere}"

    def available(self) -> list[str]:
        """Return the ids of the models that can run here."""
        return [spec.id for spec in self.catalog if spec.id not in self.unavailable]


def _short(name: str, limit: int = 100) -> str:
    return repr(name if len(name) <= limit else name[:limit] + "…")
