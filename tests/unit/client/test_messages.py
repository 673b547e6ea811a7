"""What may stand for a list of messages."""

from __future__ import annotations

from llm_backend.client.messages import as_list
from llm_backend.client.results import Message


def test_a_text_is_one_message_of_the_user() -> None:
    assert as_list("Hi") == [{"role": "user", "content": "Hi"}]


def test_messages_stay_what_they_are() -> None:
    said = Message({"role": "assistant", "content": "Hi", "reasoning": "polite"})
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, said]
    assert as_list(iter(messages)) == [messages[0], said.to_dict()]
    assert type(as_list(messages)[1]) is dict
