"""What was said in a chat, and what of it the model is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llm_backend.wire import JSONObject


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        text: What it says.
        model: Who wrote it; None for the person.
        pictures: Parts that show pictures.
    """

    text: str
    model: str | None = None
    pictures: tuple[JSONObject, ...] = ()

    @property
    def message(self) -> JSONObject:
        """As the API has it."""
        if self.model is not None:
            return {"role": "assistant", "content": self.text}
        if not self.pictures:
            return {"role": "user", "content": self.text}
        return {"role": "user", "content": [{"type": "text", "text": self.text}, *self.pictures]}


@dataclass(slots=True)
class Conversation:
    """A chat so far.

    A question that got no answer is left out as soon as another one is asked: models expect that
    question and answer take turns.

    Attributes:
        system: What the model is told before everything else.
        turns: The messages, the oldest first.
        pictures: Parts that go with the next question.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    pictures: list[JSONObject] = field(default_factory=list)

    @property
    def messages(self) -> list[JSONObject]:
        """What a request says."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *(turn.message for turn in self.turns)]

    def ask(self, text: str) -> None:
        """Add a question, with the pictures that wait for it."""
        if self.turns and self.turns[-1].model is None:
            self.turns.pop()
        self.turns.append(Turn(text, pictures=tuple(self.pictures)))
        self.pictures.clear()

    def answer(self, text: str, model: str) -> None:
        """Add an answer to the last question."""
        self.turns.append(Turn(text, model))

    def take_back(self) -> bool:
        """Forget the last answer; return whether there is a question to ask again."""
        if self.turns and self.turns[-1].model is not None:
            self.turns.pop()
        return bool(self.turns)

    def clear(self) -> None:
        """Forget every message; what the model is told before them stays."""
        self.turns.clear()
        self.pictures.clear()

    def as_markdown(self) -> str:
        """Return the chat for people."""
        return "\n".join(self._sections())

    def _sections(self) -> Iterator[str]:
        if self.system:
            yield f"## System\n\n{self.system}\n"
        for turn in self.turns:
            shown = f"\n\n({len(turn.pictures)} pictures)" if turn.pictures else ""
            yield f"## {turn.model or 'You'}\n\n{turn.text}{shown}\n"
