"""The modules of the console, asked one by one in the browser that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.harness import GatewayHome
from tests.integration.browser import GONE, Visit, browser, needs_chromium, visiting
from tests.integration.gateways import fakes, shared_gateway

pytestmark = [pytest.mark.engine, needs_chromium]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    with shared_gateway(tmp_path_factory, fakes(only="")) as home:
        yield home


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def visit(chromium: Browser, home: GatewayHome) -> Iterator[Visit]:
    with visiting(chromium, home) as visit:
        yield visit


def test_the_browser_complains_of_what_the_policy_forbids(visit: Visit) -> None:
    """So that a page without complaints is one that keeps the policy."""
    visit.expected.append("Content Security Policy|Content-Security-Policy")
    visit.page.evaluate("document.body.setAttribute('style', 'color: red')")
    visit.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => {})")
    visit.page.evaluate(
        """() => new Promise(done => {
          document.addEventListener("securitypolicyviolation", () => done());
          document.body.append(Object.assign(document.createElement("script"), {text: "1"}));
        })"""
    )

    for rule in ("style-src", "connect-src", "script-src"):
        assert any(f"{rule} 'self'" in complaint for complaint in visit.complaints), rule


# Server-sent events

READ = """async ([pieces]) => {
  const {events} = await import("/console/sse.js");
  const bytes = new Uint8Array(pieces.flat());
  const step = pieces.length === 1 ? 1 : bytes.length;
  const body = new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += step)
        controller.enqueue(bytes.slice(at, at + step));
      controller.close();
    },
  });
  const found = [];
  for await (const said of events(body)) found.push(said);
  return found;
}"""


def read(visit: Visit, text: str, *, bytewise: bool) -> Any:
    pieces = [list(text.encode())] if bytewise else [list(text.encode()), []]
    return visit.page.evaluate(READ, [pieces])


@pytest.mark.parametrize("bytewise", [True, False])
def test_events_are_read_however_they_are_cut(visit: Visit, bytewise: bool) -> None:
    stream = (
        ": loading x, about 3 s left\n\n"
        'event: state\ndata: {"a": "\N{SNOWMAN}\N{GRINNING FACE}"}\n\n'
        "data: one\r\ndata: two\r\n\r\n"
        "data:tight\n\nid: 7\n\ndata: a: b\n\n"
        "data: never finished"
    )

    assert read(visit, stream, bytewise=bytewise) == [
        {"comment": "loading x, about 3 s left"},
        {"event": "state", "data": '{"a": "\N{SNOWMAN}\N{GRINNING FACE}"}'},
        {"event": "", "data": "one\ntwo"},
        {"event": "", "data": "tight"},
        {"event": "", "data": "a: b"},
    ]


def test_a_stream_that_falls_silent_counts_as_broken(visit: Visit) -> None:
    outcome = visit.page.evaluate(
        """async () => {
          const {events} = await import("/console/sse.js");
          try {
            for await (const said of events(new ReadableStream({}), {silenceMs: 50})) return said;
          } catch (error) { return error.message; }
        }"""
    )

    assert outcome == "silence"


# Switches

FOLLOW = """async (notices) => {
  const {Follower} = await import("/console/journey.js");
  const follower = new Follower();
  for (const [kind, data] of notices) follower.take(kind, data);
  const {from, to, outcome, reason, stages, ahead, seconds} = follower.journey;
  const told = list => list.map(({name, model, state}) => [name, model, state].join(" "));
  return {from, to, outcome, reason, seconds, stages: told(stages), ahead: told(ahead)};
}"""

Notice = tuple[str, dict[str, Any]]


def switch(outcome: str | None, elapsed_s: float = 0.0, **about: Any) -> Notice:
    data = {"switch": "s1", "from": None, "to": "b", "rung": "start", **about}
    return "switch", {**data, "outcome": outcome, "elapsed_s": elapsed_s}


def step(name: str, model: str, elapsed_s: float = 0.0, switch: str = "s1") -> Notice:
    return "step", {"step": name, "model": model, "elapsed_s": elapsed_s, "switch": switch}


def state(model: str, now: str, reason: str | None = None) -> Notice:
    return "state", {"model": model, "state": now, "reason": reason, "switch": "s1"}


def test_a_switch_is_followed_from_drain_to_first_token(visit: Visit) -> None:
    leaving = [switch(None), state("a", "draining")]
    began = visit.page.evaluate(FOLLOW, leaving)
    assert (began["from"], began["to"], began["outcome"]) == ("a", "b", None)
    assert began["stages"] == ["drain a now"]
    assert began["ahead"] == [f"{x} b ahead" for x in ("memory", "launch", "load", "warm_up")]

    coming = [
        *leaving,
        step("drain_done", "a", 0.4),
        *(step("stop", "a"), step("stop_done", "a", 1.0)),
        *(step("start", "b"), step("memory", "b"), step("memory_done", "b", 0.1)),
        step("load", "other", switch="s2"),
        *(step("launch", "b"), step("launched", "b"), step("launch_done", "b", 0.2)),
        step("load", "b"),
    ]
    amid = visit.page.evaluate(FOLLOW, coming)
    done = ["drain a done", "stop a done", "memory b done", "launch b done"]
    assert amid["stages"] == [*done, "load b now"]
    assert amid["ahead"] == ["warm_up b ahead"]

    ended = visit.page.evaluate(FOLLOW, [*coming, switch("ok", 9.5, **{"from": "a"})])
    assert (ended["outcome"], ended["seconds"], ended["ahead"]) == ("ok", 9.5, [])
    assert ended["stages"][-1] == "load b done"


def test_a_wake_that_fails_goes_on_as_a_start(visit: Visit) -> None:
    waking = [switch(None, rung="asleep-1"), state("b", "starting"), step("memory", "b")]
    assert visit.page.evaluate(FOLLOW, waking)["ahead"] == ["wake_1 b ahead"]

    failing = [*waking, step("memory_done", "b", 0.1), step("wake_1", "b")]
    failing += [step("wake_1_failed", "b"), step("launch", "b")]
    assert visit.page.evaluate(FOLLOW, failing)["stages"] == [
        "memory b done",
        "wake_1 b failed",
        "launch b now",
    ]


def test_a_switch_that_fails_says_why(visit: Visit) -> None:
    notices = [switch(None), step("load", "b"), state("b", "failed", "It exited.")]
    failed = visit.page.evaluate(FOLLOW, [*notices, switch("failed", 2.0)])

    assert (failed["outcome"], failed["reason"]) == ("failed", "It exited.")
    assert failed["stages"] == ["load b failed"]


def test_a_page_opened_amid_a_switch_joins_it(visit: Visit) -> None:
    under_way = {"from": None, "to": "b", "step": "load", "elapsed_s": 4.0}
    notices: list[Notice] = [("snapshot", {"switch": under_way}), step("load_done", "b", 5.0)]
    joined = visit.page.evaluate(FOLLOW, [*notices, step("warm_up", "b"), switch("ok", 5.5)])

    assert (joined["outcome"], joined["seconds"]) == ("ok", 5.5)
    assert joined["stages"] == ["load b done", "warm_up b done"]


# What is shown


def test_code_in_an_answer_gets_a_block(visit: Visit) -> None:
    text = "So:\n\n```python\nif x:\n    y()\n```\nDone.\n~~~\nopen"
    parts = visit.page.evaluate("t => import('/console/prose.js').then(m => m.split(t))", text)

    assert [(part["kind"], part["language"], part["text"]) for part in parts] == [
        ("text", "", "So:\n"),
        ("code", "python", "if x:\n    y()"),
        ("text", "", "Done."),
        ("code", "", "open"),
    ]


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("seconds(0.418)", "0.42 s"),
        ("seconds(9.06)", "9.1 s"),
        ("seconds(9.96)", "10 s"),
        ("seconds(89.6)", "90 s"),
        ("seconds(119.7)", "2 min"),
        ("seconds(7260)", "2 h 1 min"),
        ("seconds(3 * 86400)", "3 days"),
        ("seconds(null)", "unknown"),
        ("age(3.9)", "3 s"),
        ("age(3599)", "1 h"),
        ("memory(512)", "512 MiB"),
        ("memory(1536)", "1.50 GiB"),
        ("memory(16303)", "15.9 GiB"),
        ("count(1, 'token')", "1 token"),
        ("count(2, 'token')", "2 tokens"),
    ],
)
def test_numbers_as_people_read_them(visit: Visit, call: str, shown: str) -> None:
    assert visit.page.evaluate(f"import('/console/format.js').then(m => m.{call})") == shown


def test_a_part_that_does_not_come_is_asked_for_again(chromium: Browser, home: GatewayHome) -> None:
    failures = iter([True])

    def fail_once(route: Route) -> None:
        route.abort("connectionreset") if next(failures, False) else route.continue_()

    with visiting(chromium, home) as visit:
        visit.expected.append(GONE)
        visit.page.route("**/console/explain.js", fail_once)
        visit.open()


def test_a_page_that_stays_incomplete_says_so(chromium: Browser, home: GatewayHome) -> None:
    with visiting(chromium, home) as visit:
        visit.expected.append(GONE)
        visit.page.route("**/console/explain.js", lambda route: route.abort("connectionreset"))
        visit.page.goto(home.url + "/console")
        expect(visit.page.locator("#link-text")).to_have_text("Incomplete: load the page again")
