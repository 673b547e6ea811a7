"""What the tests on a real device measured, kept for docs/reference/gpu-results.md."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

FOLDER = Path(os.environ.get("LLM_GPU_RESULTS", Path(__file__).parents[2] / "test-output" / "gpu"))


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        model: The id of the catalog whose shape was measured.
        what: What was measured.
        value: How much.
        unit: `s` or `MiB`.
    """

    model: str
    what: str
    value: float
    unit: str


@dataclass
class Results:
    """All figures of one run, on one device."""

    device: str
    memory_mib: int
    driver: str
    vllm: str
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def seconds(self, model: str, what: str, value: float) -> None:
        self.figures.append(Figure(model, what, round(value, 3), "s"))

    def mib(self, model: str, what: str, value: int) -> None:
        self.figures.append(Figure(model, what, value, "MiB"))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def write(self, folder: Path = FOLDER) -> None:
        """Write `gpu-results.json`, and the same as the tables of the page."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu-results.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "gpu-results.md").write_text(self.markdown())

    def markdown(self) -> str:
        models = sorted({figure.model for figure in self.figures})
        rows = list(dict.fromkeys((figure.what, figure.unit) for figure in self.figures))
        where = f"Measured on {self.device} ({self.memory_mib} MiB), driver {self.driver}"
        lines = [
            f"{where}, vLLM {self.vllm}, {self.date}; random weights, medians.",
            "",
            f"| | {' | '.join(models)} |",
            f"|---|{'---:|' * len(models)}",
        ]
        for what, unit in rows:
            cells = (self._median(model, what) for model in models)
            lines.append(f"| {what}, {unit} | {' | '.join(cells)} |")
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).rstrip() + "\n"

    def _median(self, model: str, what: str) -> str:
        values = [f.value for f in self.figures if (f.model, f.what) == (model, what)]
        return f"{statistics.median(values):,g}" if values else ""
