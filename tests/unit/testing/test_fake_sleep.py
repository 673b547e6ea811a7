"""The fake engine sleeps as vLLM does, and fails to as its flags say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_backend.testing.fake_sleep import DeviceMemory
from tests.unit.testing.program import Program, until

pytestmark = pytest.mark.engine

PATH = "/v1/completions"
GREEDY = {"prompt": "one two", "temperature": 0, "max_tokens": 3}
RELOAD = {"method": "reload_weights"}


def text(program: Program, **fields: Any) -> str:
    """What the engine generates for a greedy request."""
    answer = program.http.post(PATH, json={**GREEDY, **fields})
    return str(answer.json()["choices"][0]["text"])


def post(program: Program, target: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON of an answer that has to be good."""
    answer = program.http.post(target, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_sleeping(program: Program) -> bool:
    return bool(program.http.get("/is_sleeping").json()["is_sleeping"])


@contextmanager
def background(program: Program, body: dict[str, Any]) -> Iterator[list[Any]]:
    """Post a request meanwhile; its answer is in the list afterwards."""
    answers: list[Any] = []

    def ask() -> None:
        with httpx2.Client(base_url=program.http.base_url, timeout=20) as http:
            answers.append(http.post(PATH, json=body).json())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        thread.join(20)
    assert not thread.is_alive()


class TestGreedy:
    def test_equal_requests_have_equal_texts_whatever_came_between(self, run: Any) -> None:
        program = run("--token-delay-s", "0.01")
        first = text(program)
        with background(program, {**GREEDY, "prompt": "other"}):
            assert text(program) == first
        program.http.post("/v1/chat/completions", json={"messages": []})
        assert text(program) == first

    def test_text_depends_on_the_prompt_and_the_model(self, run: Any) -> None:
        program = run()
        other = run("--served-model-name", "other")
        assert len({text(program), text(program, prompt="one three"), text(other)}) == 3

    def test_stream_has_the_same_text(self, run: Any) -> None:
        program = run()
        frames = [json.loads(each) for each in program.frames(PATH, GREEDY)[:-1]]
        assert "".join(each["choices"][0]["text"] for each in frames) == text(program)


class TestSleep:
    def test_there_is_none_without_the_flag(self, run: Any) -> None:
        http = run().http
        for path in ("/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache"):
            assert http.post(path).status_code == 404
        assert http.get("/is_sleeping").status_code == 404

    def test_level_1_there_and_back(self, run: Any) -> None:
        program = run("--sleep-mode")
        before = text(program)
        assert post(program, "/sleep?level=1") == {"status": "sleeping", "level": 1}
        assert is_sleeping(program)
        assert program.http.get("/health").status_code == 200
        assert post(program, "/wake_up") == {"status": "awake", "tags": None}
        assert not is_sleeping(program)
        assert text(program) == before
        assert [each["level"] for each in program.events("asleep")] == [1]
        assert len(program.events("awake")) == 1

    def test_level_2_wants_its_weights_again(self, run: Any) -> None:
        program = run("--sleep-mode")
        before = text(program)
        for _ in range(2):
            post(program, "/sleep?level=2&mode=wait")
            half = post(program, "/wake_up?tags=weights")
            assert half == {"status": "sleeping", "tags": ["weights"]}
            assert is_sleeping(program)
            assert post(program, "/collective_rpc", RELOAD) == {"results": [None]}
            whole = post(program, "/wake_up?tags=kv_cache")
            assert whole == {"status": "awake", "tags": ["kv_cache"]}
            assert text(program) == before

    @pytest.mark.parametrize(
        "wake_up",
        [
            ["/wake_up"],
            ["/wake_up?tags=weights", "/wake_up?tags=kv_cache"],
            ["/wake_up", "/collective_rpc"],
            ["/wake_up?tags=weights&tags=kv_cache"],
        ],
    )
    def test_level_2_without_it_is_garbage(self, run: Any, wake_up: list[str]) -> None:
        program = run("--sleep-mode")
        before = text(program)
        post(program, "/sleep?level=2")
        for target in wake_up:
            post(program, target, RELOAD if target == "/collective_rpc" else None)
        after = text(program)
        assert after != before
        assert after == text(program)
        chat = program.http.post("/v1/chat/completions", json={"messages": []}).json()
        assert "garbage" in chat["choices"][0]["message"]["content"]

    def test_weights_cannot_be_read_where_there_is_no_room_for_them(self, run: Any) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep?level=2")
        assert program.http.post("/collective_rpc", json=RELOAD).status_code == 500

    def test_other_calls_are_refused(self, run: Any) -> None:
        http = run("--sleep-mode").http
        for target in ("/sleep?level=3", "/sleep?level=x", "/sleep?mode=soon"):
            assert http.post(target).status_code == 400
        missing = http.post("/collective_rpc", json={"args": []})
        assert missing.json()["error"]["message"] == "Missing 'method' in request body"
        assert http.post("/collective_rpc", json={"method": "no_such"}).status_code == 500

    def test_a_sleeper_stays_at_its_level(self, run: Any) -> None:
        program = run("--sleep-mode")
        before = text(program)
        post(program, "/sleep?level=1")
        post(program, "/sleep?level=2")
        post(program, "/wake_up")
        assert text(program) == before

    def test_unknown_tag_wakes_nothing(self, run: Any) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep")
        assert post(program, "/wake_up?tags=other") == {"status": "sleeping", "tags": ["other"]}
        assert is_sleeping(program)

    def test_level_0_only_pauses(self, run: Any) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep?level=0")
        assert is_sleeping(program)
        assert post(program, "/wake_up?tags=scheduling")["status"] == "awake"
        assert not is_sleeping(program)

    def test_prefix_cache_is_reset_while_nothing_is_answered(self, run: Any) -> None:
        program = run("--sleep-mode", "--token-delay-s", "0.1", "--tokens", "30")
        assert post(program, "/reset_prefix_cache") == {"success": True}
        with background(program, {"prompt": "x"}):
            until(lambda: "num_requests_running" in running(program))
            assert post(program, "/reset_prefix_cache") == {"success": False}
            post(program, "/sleep?mode=abort")


def running(program: Program) -> str:
    """The metric of the requests that are being answered, while there are some."""
    lines = program.http.get("/metrics").text.splitlines()
    return "".join(each for each in lines if "num_requests_running" in each and "1.0" in each)


class TestRequests:
    def test_a_request_waits_for_the_wake_up_and_is_noted(self, run: Any) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep")
        with background(program, GREEDY) as answers:
            assert program.until("asleep_request")["path"] == PATH
            assert answers == []
            post(program, "/wake_up")
        assert answers[0]["choices"][0]["text"] == text(program)
        assert len(program.events("asleep_request")) == 1

    @pytest.mark.parametrize("path", [PATH, "/v1/messages", "/v1/embeddings"])
    def test_it_hears_nothing_meanwhile(self, run: Any, path: str) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep")
        with pytest.raises(httpx2.ReadTimeout):
            program.http.post(path, json={"input": "x"}, timeout=0.2)
        assert program.until("gone")["path"] == path
        assert program.http.get("/health").status_code == 200

    def test_other_requests_are_no_such_requests(self, run: Any) -> None:
        program = run("--sleep-mode")
        post(program, "/sleep")
        for path in ("/health", "/metrics", "/v1/models", "/is_sleeping"):
            assert program.http.get(path).status_code == 200
        assert program.events("asleep_request") == []

    @pytest.mark.parametrize(("mode", "reason"), [("abort", "abort"), ("wait", "stop")])
    def test_what_becomes_of_those_under_way(self, run: Any, mode: str, reason: str) -> None:
        program = run("--sleep-mode", "--token-delay-s", "0.05", "--tokens", "20")
        with background(program, {"prompt": "x"}) as answers:
            until(lambda: running(program))
            post(program, f"/sleep?mode={mode}")
        assert answers[0]["choices"][0]["finish_reason"] == reason
        assert (answers[0]["usage"]["completion_tokens"] == 20) == (mode == "wait")


class TestMemory:
    @pytest.fixture
    def flags(self, tmp_path: Path) -> list[str]:
        (tmp_path / "memory").mkdir()
        sizes = ("--awake-mib", "900", "--asleep-1-mib", "100", "--asleep-2-mib", "40")
        return ["--sleep-mode", "--device-memory", str(tmp_path / "memory"), *sizes]

    def mib(self, program: Program, tmp_path: Path) -> int:
        return int((tmp_path / "memory" / str(program.process.pid)).read_text())

    def test_it_follows_the_sleep(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags)
        seen = [self.mib(program, tmp_path)]
        steps = ("/sleep?level=1", "/wake_up", "/sleep?level=2")
        for target in (*steps, "/wake_up?tags=weights", "/wake_up?tags=kv_cache", "/sleep?level=0"):
            post(program, target)
            seen.append(self.mib(program, tmp_path))
        assert seen == [900, 100, 900, 40, 470, 900, 900]

    def test_it_is_held_from_the_load_on(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags, "--never-ready", ready=False)
        file = tmp_path / "memory" / str(program.process.pid)
        until(file.exists)
        assert file.read_text() == "900\n"

    def test_it_is_given_back_at_the_end(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags)
        program.process.terminate()
        assert program.process.wait(20) == 0
        assert list((tmp_path / "memory").iterdir()) == []

    def test_who_reads_it_sees_it_whole(self, tmp_path: Path) -> None:
        memory = DeviceMemory(str(tmp_path))
        memory.hold(1)
        memory.hold(2)
        (file,) = tmp_path.iterdir()
        assert file.read_text() == "2\n"
        memory.release()
        memory.release()
        assert list(tmp_path.iterdir()) == []

    def test_sleep_that_frees_nothing(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags, "--sleep-fault", "noop-quiet")
        post(program, "/sleep")
        assert is_sleeping(program)
        assert self.mib(program, tmp_path) == 900

    def test_sleep_that_is_none(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags, "--sleep-fault", "noop")
        assert post(program, "/sleep") == {"status": "sleeping", "level": 1}
        assert not is_sleeping(program)
        assert self.mib(program, tmp_path) == 900
        assert text(program)

    def test_wake_up_that_ends_it(self, run: Any, flags: list[str], tmp_path: Path) -> None:
        program = run(*flags, "--sleep-fault", "die-wake")
        post(program, "/sleep")
        with pytest.raises(httpx2.RemoteProtocolError):
            program.http.post("/wake_up")
        assert program.process.wait(20) == 1
        assert list((tmp_path / "memory").iterdir()) == []


class TestFaults:
    def test_failing_to_sleep(self, run: Any) -> None:
        program = run("--sleep-mode", "--sleep-fault", "sleep-500")
        assert program.http.post("/sleep").status_code == 500
        assert not is_sleeping(program)
        assert text(program)

    def test_failing_to_wake_up(self, run: Any) -> None:
        program = run("--sleep-mode", "--sleep-fault", "wake-500")
        post(program, "/sleep")
        assert program.http.post("/wake_up").status_code == 500
        assert is_sleeping(program)

    def test_hanging_in_a_sleep(self, run: Any) -> None:
        program = run("--sleep-mode", "--sleep-fault", "hang-sleep")
        for call in ("/sleep", "/wake_up", PATH):
            with pytest.raises(httpx2.ReadTimeout):
                program.http.post(call, json=GREEDY, timeout=0.2)
        assert program.http.get("/health").status_code == 200
        program.process.terminate()
        assert program.process.wait(20) == 0

    def test_waking_up_slowly(self, run: Any) -> None:
        program = run("--sleep-mode", "--sleep-fault", "slow-wake")
        post(program, "/sleep")
        with pytest.raises(httpx2.ReadTimeout):
            program.http.post("/wake_up", timeout=0.2)
        assert program.events("awake") == []

    @pytest.mark.parametrize("level", [1, 2])
    def test_another_text_after_a_wake_up(self, run: Any, level: int) -> None:
        program = run("--sleep-mode", "--sleep-fault", "corrupt-wake")
        before = text(program)
        seen = []
        for _ in range(2):
            post(program, f"/sleep?level={level}")
            post(program, "/wake_up?tags=weights")
            post(program, "/collective_rpc", RELOAD)
            post(program, "/wake_up?tags=kv_cache")
            seen.append(text(program))
        assert seen[0] == seen[1] != before

    def test_reload_that_changes_nothing(self, run: Any) -> None:
        program = run("--sleep-mode", "--sleep-fault", "corrupt-reload")
        before = text(program)
        post(program, "/sleep?level=2")
        post(program, "/wake_up?tags=weights")
        assert post(program, "/collective_rpc", RELOAD) == {"results": [None]}
        post(program, "/wake_up?tags=kv_cache")
        assert text(program) != before


def test_a_sleep_takes_its_time_and_the_next_call_waits_for_it(run: Any) -> None:
    program = run("--sleep-mode", "--sleep-delay-s", "0.3", "--wake-delay-s", "0.3")
    with pytest.raises(httpx2.ReadTimeout):
        program.http.post("/sleep", timeout=0.05)
    assert is_sleeping(program)
    assert len(program.events("asleep")) == 1
    with pytest.raises(httpx2.ReadTimeout):
        program.http.post("/wake_up", timeout=0.05)
    assert not is_sleeping(program)
