"""Event streams: good ends, bad ends, and ends that only look good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest

from llm_backend.errors import EngineBroke, EngineGone
from llm_backend.gateway.sse import (
    EVENT_LIMIT,
    PING,
    Opening,
    StreamKind,
    StreamWatch,
    aborted,
    comment,
    error_event,
    with_start,
)
from tests.unit.gateway.samples import (
    ALL,
    FAILURE,
    SAMPLES,
    STOP,
    USAGE,
    Sample,
    chunk,
    events,
)

ERROR = EngineGone("The engine left.", hint="Ask again.")


@dataclass(frozen=True)
class Verdict:
    passed: bytes
    failed: bool
    reason: str | None = None
    tokens: tuple[int, int] | None = None


def tokens(usage: dict[str, Any] | None) -> tuple[int, int] | None:
    if usage is None:
        return None
    names = ("input_tokens", "output_tokens") if "input_tokens" in usage else tuple(USAGE)
    return usage[names[0]], usage[names[1]]


def judged(kind: StreamKind, *pieces: bytes) -> Verdict:
    watch = StreamWatch(kind)
    passed = b"".join([*map(watch.feed, pieces), watch.finish()])
    if watch.failure is not None:
        return Verdict(passed, failed=True)
    return Verdict(passed, failed=False, reason=watch.finish_reason, tokens=tokens(watch.usage))


def expected(sample: Sample) -> Verdict:
    if sample.passed is not None:
        return Verdict(sample.stream[: sample.passed], failed=True)
    return Verdict(sample.stream, failed=False, reason=sample.reason, tokens=sample.tokens)


@pytest.mark.parametrize("sample", ALL.values(), ids=ALL)
def test_the_verdict_is_right_wherever_the_stream_is_cut_into_pieces(sample: Sample) -> None:
    kind, stream = sample.kind, sample.stream
    right = expected(sample)

    assert judged(kind, stream) == right
    assert judged(kind, *(stream[i : i + 1] for i in range(len(stream)))) == right
    for cut in range(1, len(stream)):
        assert judged(kind, stream[:cut], stream[cut:]) == right, stream[:cut][-40:]


@pytest.mark.parametrize("name", ["chat", "completions", "messages", "responses"])
def test_a_stream_that_was_cut_anywhere_never_looks_finished(name: str) -> None:
    sample = SAMPLES[name]
    last = sample.stream.rindex(b"data: ")
    end = last + len(sample.stream[last:].rstrip())  # its blank line may be missing

    for cut in range(end):
        verdict = judged(sample.kind, sample.stream[:cut])
        assert verdict.failed
        assert verdict.passed == b"" or verdict.passed.endswith(b"\n\n")
        assert sample.stream.startswith(verdict.passed)
    for cut in range(end, len(sample.stream)):
        verdict = judged(sample.kind, sample.stream[:cut])
        assert not verdict.failed
        assert verdict.passed.startswith(sample.stream.rstrip())
        assert verdict.passed.endswith(b"\n\n")


def test_whole_events_are_passed_on_as_the_very_object_that_came() -> None:
    watch = StreamWatch("chat")
    piece = events(chunk(content="hello"))

    assert watch.feed(piece) is piece


def test_a_part_of_an_event_waits_for_the_rest() -> None:
    watch = StreamWatch("chat")
    first, second = events(chunk(content="one")), events(chunk(content="two"))

    assert watch.feed(first + second[:9]) == first
    assert watch.feed(second[9:-1]) == b""
    assert watch.feed(second[-1:]) == second


def test_a_failure_is_known_with_the_piece_that_tells_it() -> None:
    watch = StreamWatch("chat")
    good = events(chunk(content="hello"))

    assert watch.feed(good + events(chunk("abort"), "[DONE]")) == good
    assert isinstance(watch.failure, EngineBroke)
    assert watch.feed(events("[DONE]")) == watch.finish() == b""


def test_what_is_no_stream_is_known_at_once() -> None:
    watch = StreamWatch("chat")

    watch.feed(b'{"choices": [')

    assert watch.failure is not None
    assert "not an event stream" in watch.failure.text


def test_what_the_engine_said_is_for_the_log_alone() -> None:
    watch = StreamWatch("chat")
    watch.feed(events(FAILURE))

    assert watch.failure is not None
    assert watch.engine_text is not None
    assert "secret" in watch.engine_text
    assert "secret" not in watch.failure.text


def test_done_is_known_before_the_connection_ends() -> None:
    watch = StreamWatch("chat")

    watch.feed(events(chunk("stop")))
    assert not watch.done
    watch.feed(events("[DONE]"))
    assert watch.done


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: x\n" * 8_192, b"\r" * 65_536])
def test_an_endless_event_is_a_failure_in_bounded_memory(piece: bytes) -> None:
    watch = StreamWatch("chat")
    fed = 0
    watch.feed(b"data: ")
    while watch.failure is None:
        assert watch.feed(piece) == b""
        fed += len(piece)
        assert fed <= EVENT_LIMIT + len(piece)

    assert str(EVENT_LIMIT) in watch.failure.text
    assert watch.feed(piece) == b""


def test_a_long_stream_is_not_remembered() -> None:
    watch = StreamWatch("chat")
    large = events(chunk(content="x" * 1_000_000))
    for _ in range(10):
        watch.feed(events(chunk(content="y")))
        watch.feed(large)

    assert sum(map(len, watch._last)) < 2 * len(large)
    watch.feed(events(chunk("stop", usage=USAGE), "[DONE]"))
    assert watch.finish() == b""
    assert (watch.failure, watch.finish_reason, watch.usage) == (None, "stop", USAGE)


@pytest.mark.parametrize(
    "payload",
    [
        "[]",
        "null",
        '"error"',
        "[" * 2000,
        '{"choices": "abort", "error": null}',
        '{"choices": ["abort", null, {"finish_reason": ["abort"]}]}',
        '{"choices": [{"finish_reason": {"a": "abort"}}], "usage": "error"}',
        '{"type": ["error"], "delta": "message_delta", "response": ["cancelled"]}',
    ],
)
@pytest.mark.parametrize("kind", ["chat", "messages", "responses"])
def test_odd_payloads_are_passed_on(kind: StreamKind, payload: str) -> None:
    last = {"chat": "[DONE]", "messages": STOP, "responses": {"type": "response.completed"}}

    for stream in (events(payload, last[kind]), events(payload, payload, last[kind])):
        assert judged(kind, stream) == Verdict(stream, failed=False)
    assert judged(kind, events(last[kind], payload)).failed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "abort"}]}, True),
        ({"choices": [{"finish_reason": "length"}]}, False),
        ({"type": "message", "stop_reason": None}, True),
        ({"type": "message", "stop_reason": "end_turn"}, False),
        ({"type": "message_start", "message": {"type": "message", "stop_reason": None}}, False),
        ({"object": "response", "status": "cancelled"}, True),
        ({"object": "response", "status": "completed"}, False),
        ({"object": "list", "data": []}, False),
    ],
)
def test_whole_answers_that_were_given_up_are_known(answer: dict[str, Any], expected: bool) -> None:
    assert aborted(answer) is expected


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("loading, 12 s left", b": loading, 12 s left\n\n"),
        ("a\r\nb\n\ndata: c\rd", b": a b data: c d\n\n"),
        ("", b": \n\n"),
    ],
)
def test_a_comment_stays_a_comment(text: str, rendered: bytes) -> None:
    assert comment(text) == rendered


# What the official clients make of it.


def serving(stream: bytes) -> httpx2.Client:
    headers = {"content-type": "text/event-stream"}
    return httpx2.Client(
        transport=httpx2.MockTransport(
            lambda _: httpx2.Response(200, headers=headers, content=stream)
        )
    )


def openai_client(stream: bytes) -> openai.OpenAI:
    return openai.OpenAI(
        api_key="k", base_url="http://gateway/v1", http_client=serving(stream), max_retries=0
    )


def anthropic_client(stream: bytes) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        api_key="k", base_url="http://gateway", http_client=serving(stream), max_retries=0
    )


def watched(sample: Sample, cut: int) -> bytes:
    """Return what the client of a stream gets that breaks off after `cut` bytes."""
    watch = StreamWatch(sample.kind)
    return watch.feed(sample.stream[:cut]) + error_event(ERROR, sample.kind)


CUTS = [0, 100, 300, 500]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["chat", "responses"])
def test_the_openai_client_raises_where_a_stream_broke(name: str, cut: int) -> None:
    with openai_client(watched(SAMPLES[name], cut)) as client:
        stream: Iterable[object] = (
            client.chat.completions.create(model="m", messages=[], stream=True)
            if name == "chat"
            else client.responses.create(model="m", input="", stream=True)
        )
        with pytest.raises(openai.APIError, match=r"The engine left\. Ask again\."):
            list(stream)


@pytest.mark.parametrize("cut", CUTS)
def test_the_anthropic_client_raises_where_a_stream_broke(cut: int) -> None:
    client = anthropic_client(PING + watched(SAMPLES["messages"], cut))

    with client, pytest.raises(anthropic.APIStatusError, match="The engine left"):
        list(client.messages.create(model="m", messages=[], max_tokens=9, stream=True))


def test_clients_skip_comments_and_pings() -> None:
    chat = comment("loading") + SAMPLES["chat"].stream
    messages = comment("loading") + PING + SAMPLES["messages"].stream

    with openai_client(chat) as client:
        got = list(client.chat.completions.create(model="m", messages=[], stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in got if c.choices)
    with (
        anthropic_client(messages) as claude,
        claude.messages.stream(model="m", messages=[], max_tokens=9) as stream,
    ):
        assert stream.get_final_message().usage.output_tokens == 6


def test_the_error_event_of_responses_has_the_fields_of_the_specification() -> None:
    name, data = error_event(ERROR, "responses").decode().split("\n")[:2]
    fields = orjson.loads(data.removeprefix("data: "))

    assert name == "event: error"
    assert fields["type"] == "error"
    assert fields["code"] == "engine_gone"
    assert fields["message"] == "The engine left. Ask again."
    assert fields["error"]["type"] == "api_error"


# Streams that lack their first event


@pytest.mark.parametrize("name", ["chat", "completions", "messages", "responses"])
def test_a_start_that_is_there_is_left_alone(name: str) -> None:
    sample = SAMPLES[name]
    assert with_start(sample.kind, sample.stream, "a", "1") == sample.stream


@pytest.mark.parametrize(
    ("kind", "events", "start"),
    [
        ("messages", b'event: content_block_start\ndata: {"type":"content_block_start"}\n\n', 1),
        ("messages", b'data: {"type":"content_block_delta"}\n\nrest', 1),
        ("messages", PING, 0),
        ("messages", comment("waiting"), 0),
        ("responses", b'data: {"type":"response.output_item.added"}\n\n', 1),
        ("responses", b'data: {"type":"response.created"}\n\n', 0),
        ("chat", b'data: {"choices":[]}\n\n', 0),
    ],
)
def test_a_start_that_is_missing_is_put_there(kind: StreamKind, events: bytes, start: int) -> None:
    given = with_start(kind, events, "a", "id-1")
    assert given.endswith(events)
    added = given.removesuffix(events)
    assert added.count(b"event: ") == start
    assert start == 0 or b'"model":"a"' in added


# The first output


ROLE = events({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
NO_ROLE = events({"choices": [{"delta": {"role": "assistant", "content": None}}]})


@pytest.mark.parametrize(
    ("kind", "before", "output"),
    [
        ("chat", ROLE, events(chunk(content="a"))),
        ("chat", NO_ROLE, events(chunk(content='"'))),
        ("chat", comment("waiting"), b'data: {"choices": [{"text": "a"}]}\n\n'),
        ("chat", ROLE, events({"choices": [{"delta": {"reasoning_content": "Hm"}}]})),
        ("chat", ROLE, events({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})),
        ("messages", PING, b'data: {"type":"content_block_delta"}\n\n'),
        (
            "responses",
            b'data: {"type":"response.created"}\n\n',
            b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n',
        ),
    ],
)
def test_the_first_output_ends_the_opening(kind: StreamKind, before: bytes, output: bytes) -> None:
    noted: list[bool] = []
    opening = Opening(kind, "a", "id-1", lambda: noted.append(True))
    assert opening.take(before).endswith(before)
    assert (opening.over, noted) == (False, [])
    assert opening.take(output) == output
    assert (opening.over, noted) == (True, [True])


@pytest.mark.parametrize("name", ["chat", "completions", "messages", "responses", "vLLM chat"])
def test_every_recorded_stream_has_output(name: str) -> None:
    noted: list[bool] = []
    opening = Opening(SAMPLES[name].kind, "a", "id-1", lambda: noted.append(True))
    opening.take(SAMPLES[name].stream)
    assert noted == [True]


def test_anthropic_s_helper_takes_the_start_that_was_put_there() -> None:
    whole = SAMPLES["messages"].stream
    cut = whole[whole.index(b"event: content_block_start") :]

    with anthropic_client(with_start("messages", cut, "a", "id-1")) as client:
        asked = client.messages.stream(model="a", messages=[], max_tokens=9)
        with asked as stream:
            message = stream.get_final_message()

    assert (message.id, message.model) == ("msg_id-1", "a")
    assert message.content
