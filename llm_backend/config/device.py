"""A device of the catalog, and how much of it models may take."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from llm_backend.config.base import MiB, Number, Strict, Whole

HEADROOM_MIB: Final = {"cpu": 0, "cuda": 1536}
"""Left to others unless the catalog says otherwise: a desktop takes about 1 GiB of a card."""

CEILING: Final = {"cpu": 1.0, "cuda": 0.95}
"""The share of a device that may be in use: close to its end, allocations fail at random."""


class DeviceSpec(Strict):
    """A GPU or the CPU."""

    kind: Literal["cpu", "cuda"] = "cuda"
    """`cuda` for an NVIDIA GPU, `cpu` for the processor and its RAM."""
    index: Annotated[Whole, Field(ge=0, le=63)] = 0
    """Number of the GPU, as `nvidia-smi` counts."""
    memory_mib: MiB | None = None
    """What models may reserve together at most; by default what `headroom_mib` leaves of it."""
    headroom_mib: MiB | None = None
    """What models leave to others, such as the desktop; by default 1536, on a CPU 0."""
    ceiling: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Share of it that may be in use once a model has started; by default 0.95, on a CPU 1.0."""

    def room_mib(self, total_mib: int | None) -> int | None:
        """Return what models may reserve together, in MiB; None where nobody knows.

        Args:
            total_mib: The size of the device; None where it cannot be read.
        """
        size = self.memory_mib if total_mib is None else total_mib
        if size is None:
            return None
        headroom = HEADROOM_MIB[self.kind] if self.headroom_mib is None else self.headroom_mib
        room = max(0, min(size - headroom, int(size * self.highest_use)))
        return room if self.memory_mib is None else min(room, self.memory_mib)

    @property
    def highest_use(self) -> float:
        """The share of the device that may be in use, whoever uses it."""
        return CEILING[self.kind] if self.ceiling is None else self.ceiling
