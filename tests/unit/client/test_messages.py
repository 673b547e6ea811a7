"""What may stand for a list of messages."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend import InvalidRequest
from llm_backend.client.messages import as_list
from llm_backend.client.results import Message


def test_a_text_is_one_message_of_the_user() -> None:
    assert as_list("Hi") == [{"role": "user", "content": "Hi"}]


def test_messages_stay_what_they_are() -> None:
    said = Message({"role": "assistant", "content": "Hi", "reasoning": "polite"})
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, said]
    assert as_list(iter(messages)) == [messages[0], said.to_dict()]
    assert type(as_list(messages)[1]) is dict


@pytest.mark.parametrize(
    "messages", [None, 5, b"Hi", {"role": "user", "content": "Hi"}, ["Hi"], [("user", "Hi")]]
)
def test_what_is_neither_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest, match="a text or a list of messages") as raised:
        as_list(messages)
    assert "An example" in str(raised.value)
