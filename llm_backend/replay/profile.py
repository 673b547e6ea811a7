"""What switches and answers cost on a machine: the numbers that a simulation goes by."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from llm_backend.config.base import Count, ModelId, Number, Seconds, Strict, Text
from llm_backend.errors import SetupError
from llm_backend.replay.trace import first_fault

Rate = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]

PROFILES = "profiles"
"""Directory of the profiles that come with the product."""


class Costs(Strict):
    """What one model costs."""

    start_s: Seconds
    """From the start of its engine until it can serve."""
    stop_s: Seconds
    """From the order to stop until the memory of the device is back."""
    spread: Share = 0.0
    """How far a start or stop may be off, either way, as a share of its time."""
    concurrency: Count = 10
    """Requests that the engine works on at once."""
    prompt_tokens_per_s: Rate
    """How fast it reads."""
    tokens_per_s: Rate
    """How fast it writes one answer when it has nothing else to do."""
    tokens_per_s_at_most: Rate
    """How fast it writes all its answers together."""

    def answer_s(self, prompt_tokens: int, completion_tokens: int, running: int) -> float:
        """Return the seconds for an answer when so many are written at once, itself included."""
        rate = min(self.tokens_per_s, self.tokens_per_s_at_most / running)
        return prompt_tokens / self.prompt_tokens_per_s + completion_tokens / rate


class Profile(Strict):
    """A machine with one device, and what the models cost on it."""

    name: Text
    """What it is called."""
    about: Text
    """Which machine, and how engines run on it."""
    basis: Literal["measured", "estimated"]
    """Whether the numbers were measured on that machine."""
    sources: tuple[Text, ...]
    """Where the numbers come from."""
    models: dict[ModelId, Costs]
    """Costs, by catalog id."""

    def require(self, models: Iterable[str]) -> None:
        """Check that it has the costs of all these models.

        Raises:
            SetupError: names one that it lacks, and those that it has.
        """
        for model in models:
            if model not in self.models:
                raise SetupError(
                    f"The profile {self.name} has no costs for {model!r}; "
                    f"it has {', '.join(self.models)}.",
                    hint="Write a profile of your own: docs/howto/replay.md shows one.",
                )


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the product."""
    folder = resources.files(__package__) / PROFILES
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_profile(name: str) -> Profile:
    """Load a profile by its name, or from a file.

    Raises:
        SetupError: there is none, or it is wrong; names the file and the key.
    """
    if name in profile_names():
        file = resources.files(__package__) / PROFILES / f"{name}.json"
        return Profile.model_validate_json(file.read_bytes())
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise SetupError(
            f"There is no profile {name!r}, and as a file it cannot be read: {error.strerror}.",
            hint=f"Profiles that there are: {', '.join(profile_names())}.",
        ) from None
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        raise SetupError(f"{name}: {first_fault(error)}") from None
