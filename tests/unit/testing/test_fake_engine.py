"""The fake engine is as real as the official SDKs can tell, and fails as its flags say."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import httpx2
import pytest

from llm_backend.testing.fake_answers import ANSWERS
from tests.unit.testing.program import until

pytestmark = pytest.mark.engine

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}]}


class TestAnswers:
    def test_chat(self, run: Any) -> None:
        answer = run("--tokens", "3").http.post("/v1/chat/completions", json=CHAT).json()
        assert answer["choices"][0]["message"]["content"] == "fake word2 word3"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == 3

    def test_limit_of_the_request_counts(self, run: Any) -> None:
        answer = run().http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2}).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 2

    def test_stream_has_the_text_of_the_whole_answer(self, run: Any) -> None:
        program = run("--tokens", "3")
        frames = program.frames("/v1/chat/completions", CHAT)
        assert program.text(frames) == "fake word2 word3"
        assert frames[-1] == "[DONE]"
        assert not any("usage" in frame for frame in frames)

    def test_stream_ends_with_the_usage_if_asked(self, run: Any) -> None:
        body = {**CHAT, "stream_options": {"include_usage": True}}
        frames = run("--tokens", "3").frames("/v1/chat/completions", body)
        assert json.loads(frames[-2])["usage"]["completion_tokens"] == 3

    @pytest.mark.parametrize("path", ANSWERS)
    def test_every_api_answers_and_streams(self, run: Any, path: str) -> None:
        program = run()
        assert "word8" in program.http.post(path, json=CHAT).text
        assert any("word8" in frame for frame in program.frames(path, CHAT))

    def test_other_routes(self, run: Any) -> None:
        http = run("--served-model-name", "org/m", "--max-model-len", "77").http
        (model,) = http.get("/v1/models").json()["data"]
        assert (model["id"], model["max_model_len"]) == ("org/m", 77)
        assert http.get("/health").status_code == 200
        assert http.post("/tokenize", json={"prompt": "a b"}).json()["count"] == 2
        assert http.post("/detokenize", json={"tokens": [4]}).json() == {"prompt": "word4"}
        assert http.post("/v1/messages/count_tokens", json=CHAT).json()["input_tokens"] > 0
        vectors = http.post("/v1/embeddings", json={"input": ["a", "b"]}).json()["data"]
        assert [vector["index"] for vector in vectors] == [0, 1]
        assert http.get("/nowhere").status_code == 404

    def test_refusals_are_worded_as_vllm_words_them(self, run: Any) -> None:
        http = run("--max-model-len", "5").http
        unknown = http.post("/v1/chat/completions", json={**CHAT, "model": "other"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, 404)
        assert unknown.json()["error"]["message"] == "The model `other` does not exist."
        long = http.post("/v1/completions", json={"prompt": "a b c d e f"})
        assert long.status_code == 400
        assert "maximum context length is 5 tokens" in long.json()["error"]["message"]

    def test_counters_move(self, run: Any) -> None:
        http = run("--tokens", "3").http
        http.post("/v1/chat/completions", json=CHAT)
        labels = '{engine="0",model_name="fake"}'
        metrics = http.get("/metrics").text.splitlines()
        assert f"vllm:iteration_tokens_total_count{labels} 3.0" in metrics
        assert f"vllm:num_requests_running{labels} 0.0" in metrics


class TestLife:
    def test_load_is_logged_as_vllm_logs_it(self, run: Any) -> None:
        log = run("--load-s", "0.1").log.read_text()
        assert "Loading safetensors checkpoint shards:  50% Completed | 2/4" in log
        assert "Application startup complete." in log

    def test_sigterm_ends_it(self, run: Any) -> None:
        program = run()
        program.process.terminate()
        assert program.process.wait(20) == 0
        assert [len(program.events(name)) for name in ("start", "sigterm", "exit")] == [1, 1, 1]

    def test_sigterm_ends_it_while_it_loads(self, run: Any) -> None:
        program = run("--never-ready", ready=False)
        until(lambda: "shards: 100%" in program.log.read_text())
        program.process.terminate()
        assert program.process.wait(20) == 0
        assert program.events("ready") == []

    def test_failing_at_start(self, run: Any) -> None:
        program = run("--exit-at-start", "4", ready=False)
        assert program.process.wait(20) == 4
        assert "ValueError: Free memory on device" in program.log.read_text()

    def test_ignoring_sigterm(self, run: Any) -> None:
        program = run("--ignore-sigterm")
        program.process.terminate()
        program.until("sigterm")
        assert program.http.get("/health").status_code == 200

    def test_journal_tells_the_model_that_was_asked_for(self, run: Any) -> None:
        program = run()
        program.http.post("/v1/completions", json={"model": "other"})
        (request,) = program.events("request")
        assert (request["path"], request["model"]) == ("/v1/completions", "other")


class TestFaults:
    def test_status(self, run: Any) -> None:
        program = run("--status", "500")
        answer = program.http.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            500,
            "InternalServerError",
        )
        assert program.http.get("/health").status_code == 200

    def test_dying_in_the_middle_of_a_stream(self, run: Any) -> None:
        program = run("--die-after-tokens", "2", "--token-delay-s", "0.01")
        with pytest.raises(httpx2.RemoteProtocolError):
            program.frames("/v1/chat/completions", CHAT)
        assert program.process.wait(20) == -signal.SIGKILL

    def test_hanging_is_for_all_and_health_stays_good(self, run: Any) -> None:
        program = run("--hang-after-tokens", "2")
        for _ in range(2):
            with pytest.raises(httpx2.ReadTimeout):
                program.http.post("/v1/chat/completions", json=CHAT, timeout=0.2)
        program.until("gone")
        assert program.http.get("/health").status_code == 200
        assert "tokens_total_count" in program.http.get("/metrics").text

    def test_client_that_leaves_is_noticed(self, run: Any) -> None:
        program = run("--token-delay-s", "0.05", "--tokens", "1000")
        with pytest.raises(httpx2.ReadTimeout):
            program.http.post("/v1/chat/completions", json=CHAT, timeout=0.2)
        assert program.until("gone")["path"] == "/v1/chat/completions"

    def test_aborted_answer(self, run: Any) -> None:
        frames = run("--abort-finish").frames("/v1/chat/completions", CHAT)
        assert json.loads(frames[-2])["choices"][0]["finish_reason"] == "abort"

    def test_cut_stream(self, run: Any) -> None:
        with pytest.raises(httpx2.TransportError):
            run("--cut-stream").frames("/v1/chat/completions", CHAT)

    def test_bad_frame(self, run: Any) -> None:
        frames = run("--bad-frame").frames("/v1/chat/completions", CHAT)
        assert frames.count('{"choices": [') == 1

    @pytest.mark.parametrize(
        ("flag", "is_bound"), [("--grandchild", False), ("--grandchild-holds-port", True)]
    )
    def test_grandchild(self, run: Any, flag: str, *, is_bound: bool) -> None:
        program = run(flag)
        daemon = program.until("grandchild")["pid"]
        program.process.kill()
        program.process.wait()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", program.port))
                found = False
            except OSError:
                found = True
        os.kill(daemon, signal.SIGKILL)
        assert found == is_bound
