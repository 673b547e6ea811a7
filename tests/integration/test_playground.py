"""The console's playground: conversations, pictures, errors, and the requests as code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests import echo_engine
from tests.harness import PATIENCE_S, GatewayHome, fake_model
from tests.integration.browser import REFUSED, Visit, browser, needs_chromium, visiting
from tests.integration.gateways import at_rest, client_of, fake, shared_gateway
from tests.unit.gateway.pictures import data_url, png

pytestmark = [pytest.mark.engine, needs_chromium, pytest.mark.feature("console")]

CHAT = ["chat"]
SEES = ["chat", "vision"]


def echo(root: Path) -> dict[str, Any]:
    entry = fake_model(root, "echo")
    argv = [*entry["engine"]["argv"][:6], sys.executable, echo_engine.__file__, "{port}"]
    return {**entry, "capabilities": SEES, "engine": {"kind": "command", "argv": argv}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fake("steady", "--tokens 12 --token-delay-s 0.03", capabilities=CHAT),
        **fake("hanging", "--hang-after-tokens 3", capabilities=CHAT),
        **fake("blind", "--no-images", capabilities=CHAT),
        **fake("ill", "--exit-at-start 1 --load-s 1.2", capabilities=CHAT),
        **fake("late", "--load-s 2", capabilities=CHAT),
        "echo": echo,
    }
    with shared_gateway(tmp_path_factory, models) as home:
        yield home


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def visit(chromium: Browser, home: GatewayHome) -> Iterator[Visit]:
    with visiting(chromium, home, permissions=["clipboard-read", "clipboard-write"]) as visit:
        yield visit
    with client_of(home, headers=home.admin) as http:
        http.post("/api/v1/inference/unload", json={})
    at_rest(home)


def is_over(turn: Any, state: str = "done") -> None:
    expect(turn).to_have_attribute("data-state", state)


def test_an_answer_is_streamed_and_measured(visit: Visit) -> None:
    turn = visit.ask("Say hi", "steady")

    is_over(turn)
    words = " ".join(["steady", *(f"word{n}" for n in range(2, 13))])
    expect(turn.locator(".turn-answer .turn-said")).to_have_text(words)
    figures = turn.locator(".turn-figures")
    expect(figures).to_contain_text(re.compile(r"first token [\d.]+ s"))
    expect(figures).to_contain_text(re.compile(r"[\d.]+ tokens/s"))
    expect(figures).to_contain_text(re.compile(r"\d+ in, 12 out"))
    assert "The answer is complete: 12 tokens." in visit.told()


def test_an_answer_is_seen_while_it_comes_and_can_be_stopped(visit: Visit) -> None:
    """The engine says three words and then no more: what is shown came before the end."""
    turn = visit.ask("Go on", "hanging")

    expect(turn.locator(".turn-answer .turn-said")).to_have_text("hanging word2 word3")
    is_over(turn, "answering")
    visit.press("Stop")
    is_over(turn, "stopped")
    expect(turn.locator(".turn-answer .turn-said")).to_have_text("hanging word2 word3")
    expect(visit.page.locator("#prompt")).to_be_focused()


def test_the_model_hears_what_was_said_before_and_how_to_answer(visit: Visit) -> None:
    page = visit.page
    is_over(visit.ask("First", "steady"))
    page.get_by_text("Parameters").click()
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("5")
    page.get_by_label("System prompt").fill("Be brief")
    with page.expect_request("**/v1/chat/completions") as asked:
        turn = visit.ask("Second", "steady")

    is_over(turn)
    body = asked.value.post_data_json
    assert body is not None
    assert [(m["role"], m["content"][:6]) for m in body["messages"]] == [
        ("system", "Be bri"),
        ("user", "First"),
        ("assistant", "steady"),
        ("user", "Second"),
    ]
    assert (body["temperature"], body["max_tokens"]) == (0.5, 5)
    expect(turn.locator(".turn-figures")).to_contain_text("cut at max tokens")
    visit.press("New chat")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_picture_is_shown_and_sent(visit: Visit) -> None:
    page = visit.page
    page.locator("#files").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": png()}
    )
    expect(page.locator("#pictures")).to_contain_text("dot.png")
    loaded = "e => e.complete && e.naturalWidth"
    assert page.locator("#pictures img").evaluate(loaded) == 4

    turn = visit.ask("What is it?", "echo")

    is_over(turn)
    expect(turn.locator(".turn-answer .turn-said")).to_contain_text(data_url(png()))
    assert turn.locator(".turn-question img").evaluate(loaded) == 4
    expect(page.locator("#pictures")).not_to_be_visible()


def test_a_picture_for_a_model_that_reads_none_is_explained(visit: Visit) -> None:
    visit.expected.append(REFUSED)
    page = visit.page
    is_over(visit.ask("Are you awake?", "blind"))
    page.locator("#files").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": png()}
    )
    page.locator("#chat-model").select_option("blind")
    expect(page.locator("#chat-hint")).to_contain_text("not known to read pictures")

    turn = visit.ask("What is it?", "blind")

    is_over(turn, "failed")
    expect(turn.get_by_role("alert")).to_contain_text("400 unsupported_by_model")
    expect(turn.get_by_role("alert")).to_contain_text("request ")
    expect(turn.get_by_role("button", name="Try again")).to_be_visible()
    assert any(line.startswith("The request failed: ") for line in visit.told())


def test_an_engine_that_fails_while_the_page_waits_is_explained(visit: Visit) -> None:
    turn = visit.ask("Hello", "ill")

    is_over(turn, "failed")
    alert = turn.get_by_role("alert")
    expect(alert).to_contain_text("exited with status 1 before it was ready")
    expect(alert.locator("pre")).to_contain_text("desired GPU memory utilization")
    expect(alert).to_contain_text("What the engine wrote last says why.")
    expect(alert).to_contain_text(re.compile(r"engine_start_failed\s*request \w+"))


def test_what_a_request_waits_for_is_told(visit: Visit) -> None:
    page = visit.page
    page.evaluate(
        """() => {
          window.notes = new Set();
          new MutationObserver(() => {
            for (const e of document.querySelectorAll(".turn-note")) notes.add(e.textContent);
          }).observe(document.getElementById("turns"), {subtree: true, childList: true});
        }"""
    )
    turn = visit.ask("Hello", "late")

    is_over(turn)
    assert any(note.startswith("loading late") for note in page.evaluate("[...notes]"))
    expect(turn.locator(".turn-figures")).to_contain_text(re.compile(r"load \d\.\d s"))


def test_what_a_model_says_stays_text(visit: Visit) -> None:
    hostile = "<img src=x onerror=document.title=1><script>document.title=2</script>"
    turn = visit.ask(hostile, "echo")

    is_over(turn)
    expect(turn.locator(".turn-answer .turn-said")).to_contain_text(
        "<img src=x onerror=document.title=1>"
    )
    assert turn.locator("script, img, a, iframe").count() == 0
    expect(turn.locator(".turn-question")).to_contain_text(hostile)
    expect(visit.page).to_have_title("echo · llm-backend")


@pytest.mark.parametrize("kind", ["curl", "Python"])
def test_the_very_request_runs_as_code(visit: Visit, kind: str) -> None:
    page = visit.page
    asked = 'It\'s "quoted" $HOME `id` \\n \N{GRINNING FACE}\nEOF\nJSON'
    page.locator("#files").set_input_files(
        {"name": "dot.png", "mimeType": "image/png", "buffer": png(padding=3000)}
    )
    turn = visit.ask(asked, "echo")
    is_over(turn)
    said = turn.locator(".turn-answer .turn-said").text_content()
    turn.get_by_role("button", name=kind).click()
    expect(page.locator("#snippet-text")).to_contain_text("…")
    visit.press("Copy")
    expect(page.get_by_text("Copied.", exact=True)).to_be_visible()
    code = page.evaluate("navigator.clipboard.readText()")

    program = ["bash"] if kind == "curl" else [sys.executable, "-"]
    done = subprocess.run(
        program,
        input=code,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*"},
        check=True,
    )

    assert said is not None
    told = done.stdout
    if kind == "curl":
        chunk = next(line for line in told.splitlines() if line.startswith("data: "))
        told = json.loads(chunk[6:])["choices"][0]["delta"]["content"]
    assert asked_in(told) == asked_in(said)
    assert data_url(png(padding=3000)) in told


def asked_in(told: str) -> Any:
    """Return the body that the engine heard: it repeats it, and the headers after it."""
    body, _ = json.JSONDecoder().raw_decode(told)
    return body


ATTACK = """async (gateway) => {
  const tried = {};
  const post = {method: "POST", headers: {"content-type": "application/json"}, body: "{}"};
  for (const mode of ["cors", "no-cors"]) {
    for (const path of ["/console", "/console/main.js", "/api/v1/history", "/status", "/events"])
      tried[mode + path] = await fetch(gateway + path, {mode, credentials: "include"})
        .then(r => r.type === "opaque" ? "sent" : "READ", () => "refused");
    for (const path of ["/api/v1/inference/load", "/api/v1/inference/unload"])
      tried[mode + path] = await fetch(gateway + path, {...post, mode, credentials: "include"})
        .then(r => r.type === "opaque" ? "sent" : "READ", () => "refused");
  }
  // A frame that may not show the page is of no origin that this one could read.
  const frame = document.createElement("iframe");
  frame.src = gateway + "/console";
  const shown = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await shown;
  try { tried.frame = frame.contentWindow.document.body.innerHTML; } catch { tried.frame = "shut"; }
  const opened = window.open(gateway + "/console");
  const until = performance.now() + 20_000;
  while (!opened.closed && performance.now() < until) await new Promise(r => setTimeout(r, 20));
  tried.opened = opened.closed ? "shut" : "HELD";
  tried.script = await new Promise(done => {
    const script = document.createElement("script");
    script.src = gateway + "/console/theme.js";
    script.onload = () => done("RAN");
    script.onerror = () => done("refused");
    document.body.append(script);
  });
  return tried;
}"""


def test_a_page_of_another_origin_can_do_nothing(visit: Visit) -> None:
    """In the same browser, beside a console in which the admin key is typed."""
    visit.give_admin_key()
    visit.press("Load steady")
    visit.is_in_state("steady", "awake")
    context = visit.page.context
    context.route(
        "http://attacker.example/**",
        lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"),
    )
    other = context.new_page()
    other.goto("http://attacker.example/")

    tried = other.evaluate(ATTACK, visit.home.url)

    assert "READ" not in tried.values()
    assert (tried["frame"], tried["opened"], tried["script"]) == ("shut", "shut", "refused")
    framed = other.frames[1]
    assert framed.locator("#prompt").count() == 0, "another page can frame the console"
    assert visit.home.state("steady") == "awake"
    visit.is_in_state("steady", "awake")
