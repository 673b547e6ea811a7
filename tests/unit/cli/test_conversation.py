"""What the model is told of a chat, whatever went wrong before."""

from __future__ import annotations

from llm_backend.cli.conversation import Conversation

CAT = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,AAAA"}}


def test_question_and_answer_take_turns() -> None:
    said = Conversation("Be brief.")
    said.ask("One?")
    said.answer("1", "tiny")
    said.ask("Two?")

    assert said.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
    ]


def test_a_question_without_an_answer_makes_room_for_the_next_one() -> None:
    said = Conversation()
    said.ask("Lost?")
    said.ask("Found?")

    assert said.messages == [{"role": "user", "content": "Found?"}]


def test_pictures_go_with_the_next_question_alone() -> None:
    said = Conversation()
    said.pictures.append(CAT)
    said.ask("What is it?")
    said.answer("A cat.", "tiny")
    said.ask("Which?")

    assert said.messages[0]["content"] == [{"type": "text", "text": "What is it?"}, CAT]
    assert said.messages[2]["content"] == "Which?"


def test_to_retry_takes_back_the_answer_and_keeps_the_question() -> None:
    said = Conversation()
    assert not said.take_back()
    said.ask("One?")
    assert said.take_back()
    said.answer("2", "tiny")

    assert said.take_back()
    assert said.messages == [{"role": "user", "content": "One?"}]


def test_to_clear_forgets_all_but_the_system_message() -> None:
    said = Conversation("Be brief.")
    said.ask("One?")
    said.pictures.append(CAT)
    said.clear()

    assert said.messages == [{"role": "system", "content": "Be brief."}]
    assert not said.pictures


def test_people_read_it_as_markdown() -> None:
    said = Conversation("Be brief.")
    said.pictures.append(CAT)
    said.ask("What is it?")
    said.answer("A *cat*.", "tiny")

    assert said.as_markdown() == (
        "## System\n\nBe brief.\n\n## You\n\nWhat is it?\n\n(1 pictures)\n\n## tiny\n\nA *cat*.\n"
    )
