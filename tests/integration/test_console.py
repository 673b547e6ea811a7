"""The web console as a person has it beside the work: a real browser, gateway, engines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from llm_backend.gateway.assets import POLICY
from llm_backend.runtimes.ports import free_port
from tests.harness import GatewayHome, gateway_home
from tests.integration.browser import (
    GONE,
    REFUSED,
    Visit,
    browser,
    needs_axe,
    needs_chromium,
    shots_in,
    visiting,
)
from tests.integration.devices import CARD_MIB, on_card, start_on_card
from tests.integration.gateways import (
    at_rest,
    client_of,
    fake,
    fakes,
    key_of,
    key_setting,
    shared_gateway,
)
from tests.nvml.library import FakeDevice, build

pytestmark = [pytest.mark.engine, needs_chromium, pytest.mark.feature("console")]

TEXT: dict[str, Any] = {"capabilities": ["chat"]}
UP = ["is starting", "launch", "load", "warm up", "is awake"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fake("first", purpose="Chat", **TEXT),
        **fake("second", "--load-s 1", purpose="Chat, slower to load", **TEXT),
        **fakes(stuck="--never-ready", ill="--exit-at-start 1"),
    }
    with shared_gateway(tmp_path_factory, models) as home:
        yield home


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def visit(chromium: Browser, home: GatewayHome) -> Iterator[Visit]:
    with client_of(home, headers=home.admin) as http:
        http.post("/api/v1/inference/unload", json={})
        with visiting(chromium, home) as visit:
            yield visit
        http.post("/api/v1/inference/unload", json={})
    at_rest(home)


def in_order(told: list[str], wanted: list[str]) -> bool:
    rest = iter(told)
    return all(line in rest for line in wanted)


# Switching


def test_a_model_is_switched_to_and_watched_stage_by_stage(visit: Visit) -> None:
    page = visit.page
    expect(page.get_by_text("No model is awake.")).to_be_visible()

    visit.press("Load first")
    expect(page.get_by_text("That needs the admin key.")).to_be_visible()
    visit.give_admin_key()
    visit.is_in_state("first", "awake")
    visit.press("Load second")
    visit.is_in_state("second", "awake")

    words = [f"second {x}." if x.startswith("is") else f"second: {x}." for x in UP]
    assert in_order(visit.told(), ["first is stopping.", *words])
    expect(page.locator("#journey-title")).to_have_text("Last switch: first → second")
    expect(page.locator("#journey-times")).to_have_text(re.compile(r"^took [\d.]+ s$"))
    stages = page.locator("#stages li")
    assert [stages.nth(i).get_attribute("data-stage") for i in range(stages.count())] == [
        *("stop", "memory", "launch", "load", "warm_up"),
    ]
    expect(page.locator('#stages li[data-state="done"]')).to_have_count(5)
    expect(page.locator(".holders")).to_have_text(re.compile(r"^second is awake since \d\d:\d\d"))
    newest = page.locator("#switch-rows tr").first
    expect(newest).to_contain_text("first → second")
    expect(page).to_have_title("second · llm-backend")


def test_a_load_under_way_is_shown_and_can_be_called_off(visit: Visit) -> None:
    visit.give_admin_key()
    visit.press("Load stuck")

    page = visit.page
    expect(page.locator('[data-stage="load"][data-state="now"]')).to_be_visible()
    expect(page.locator('[data-stage="launch"][data-state="done"]')).to_be_visible()
    expect(page.locator('[data-stage="warm_up"][data-state="ahead"]')).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#journey-times")).to_contain_text("not known yet")
    page.reload()
    expect(page.locator('[data-stage="load"][data-state="now"]')).to_be_visible()

    visit.press("Unload stuck")
    visit.is_in_state("stuck", "stopped")
    expect(page.locator("#journey-title")).to_have_text("Unloaded: stuck")


def test_an_engine_that_does_not_come_up_says_why(visit: Visit) -> None:
    visit.give_admin_key()
    visit.press("Load ill")

    visit.is_in_state("ill", "failed")
    reason = "The engine of ill exited with status 1 before it was ready."
    expect(visit.model("ill")).to_contain_text(reason)
    expect(visit.page.locator("#journey")).to_contain_text(reason)
    expect(visit.page.locator("#switch-rows tr").first).to_contain_text("failed")


def test_a_key_that_is_wrong_is_told_before_it_is_used(visit: Visit) -> None:
    visit.expected.append(REFUSED)
    visit.press("Load first")
    visit.page.get_by_label("Admin key").fill("guessed")
    visit.press("Use")

    wrong = "The key is not known to this gateway."
    expect(visit.page.get_by_role("alert").filter(has_text=wrong)).to_be_visible()
    visit.press("Cancel")
    assert visit.home.state("first") == "stopped"
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_the_key_goes_with_the_tab_and_never_into_a_cookie(visit: Visit) -> None:
    visit.give_admin_key()

    key = visit.home.admin["authorization"].split()[1]
    assert visit.page.evaluate("Object.values(sessionStorage)") == [key]
    assert visit.page.evaluate("Object.values(localStorage)") == []
    assert visit.page.context.cookies() == []
    visit.page.locator("#keys-open").click()
    visit.press("Forget both")
    assert visit.page.evaluate("sessionStorage.length") == 0


def test_the_log_of_an_engine_is_followed(visit: Visit) -> None:
    visit.give_admin_key()
    visit.page.locator("#log-model").select_option("first")
    visit.press("Follow")
    visit.press("Load first")

    expect(visit.page.locator("#log")).to_contain_text("Application startup complete.")
    visit.press("Stop following")
    expect(visit.page.get_by_role("button", name="Follow", exact=True)).to_be_visible()


# The connection


def test_a_gateway_that_is_lost_and_comes_back(chromium: Browser, tmp_path: Path) -> None:
    with gateway_home(tmp_path) as home:
        server = {"port": free_port("127.0.0.1")}
        models = {name: make(tmp_path) for name, make in fakes(only="").items()}
        home.configure(models, server=server)
        home.start()
        with visiting(chromium, home) as visit:
            visit.expected.append(GONE)
            page = visit.page
            visit.give_admin_key()
            visit.press("Load only")
            visit.is_in_state("only", "awake")

            home.kill()
            banner = page.get_by_role("alert").filter(has_text="No connection to the gateway since")
            expect(banner).to_be_visible()
            expect(page.locator("#link-text")).to_have_text(re.compile(r"^Lost at \d\d:\d\d:\d\d$"))
            expect(page).to_have_title(re.compile("^✕ "))
            unload = page.get_by_role("button", name="Unload only")
            expect(unload).to_have_attribute("aria-disabled", "true")
            expect(page.locator("#send")).to_have_attribute("aria-disabled", "true")
            assert page.locator("#card").evaluate("e => getComputedStyle(e).filter") != "none"

            home.start()
            visit.is_live()
            expect(banner).not_to_be_visible()
            visit.is_in_state("only", "awake")
            assert in_order(visit.told(), ["The connection to the gateway is lost.", "Connected."])
            visit.press("Unload only")
            visit.is_in_state("only", "stopped")


def test_where_inference_needs_a_key_nothing_is_shown_without(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = [key_setting("someone", "infer")]
    with shared_gateway(tmp_path_factory, fakes(only=""), keys=keys) as home:
        context = chromium.new_context()
        visit = Visit(context.new_page(), home)
        visit.page.goto(home.url + "/console")
        expect(visit.page.get_by_text("This gateway answers only with a key.")).to_be_visible()
        expect(visit.page.locator("#models")).not_to_be_visible()

        visit.press("Type a key")
        visit.page.get_by_label("Inference key").fill(key_of("someone"))
        visit.press("Use")
        visit.is_live()
        turn = visit.ask("Hello", "only")
        expect(turn).to_have_attribute("data-state", "done")
        context.close()


# The card


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayHome]:
    device = FakeDevice(tmp_path / "card", CARD_MIB)
    device.reserve(1024)
    with gateway_home(tmp_path) as home:
        models = {
            "big": on_card(device, tmp_path, "big", 9000, purpose="Chat", **TEXT),
            "small": on_card(device, tmp_path, "small", 3000, group="small", **TEXT),
        }
        library = build(tmp_path / "nvml")
        start_on_card(home, models, monkeypatch, None, **device.environment(library))
        yield home


def test_the_memory_of_the_card_and_a_lease_on_it(chromium: Browser, card: GatewayHome) -> None:
    with visiting(chromium, card) as visit:
        page = visit.page
        visit.give_admin_key()
        for model in ("small", "big"):
            visit.press(f"Load {model}")
            visit.is_in_state(model, "awake")
        legend = page.locator("#devices .legend")
        expect(legend).to_contain_text("big (awake)8.79 GiB")
        expect(legend).to_contain_text("small (awake)2.93 GiB")
        expect(legend).to_contain_text("other programs1.00 GiB")
        expect(page.locator("#devices")).to_contain_text("12.7 GiB of 15.9 GiB in use")
        parts = page.locator(".membar-part").evaluate_all("x => x.map(e => e.offsetWidth)")
        assert parts[0] > parts[1] > 0

        page.get_by_label("What for").fill("ComfyUI")
        page.locator("#lease-mib").fill("8000")
        visit.press("Take")
        lease = page.locator(".lease")
        expect(lease).to_contain_text("ComfyUI7.81 GiB of gpu0, 1 h left")
        visit.is_in_state("big", "stopped")
        expect(page.locator(".holders")).to_contain_text("ComfyUI has 7.81 GiB")

        visit.press("Release the lease for ComfyUI")
        expect(lease).to_have_count(0)
        visit.is_in_state("big", "awake")
        expect(page.locator(".lane-name")).to_have_text(["small", "big", "ComfyUI"])


# For everybody


def test_it_is_used_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    keyboard = page.keyboard
    keyboard.press("Tab")
    expect(page.get_by_text("Skip to the playground")).to_be_focused()
    reached = walked(visit, until="Load first")
    assert {"Theme: auto. Change it.", "Card", "Logs"} <= reached
    keyboard.press("Enter")
    expect(page.get_by_label("Admin key")).to_be_focused()
    keyboard.insert_text(visit.home.admin["authorization"].split()[1])
    keyboard.press("Enter")
    visit.is_in_state("first", "awake")
    expect(page.get_by_role("button", name="Load first", exact=True)).to_be_focused()

    walked(visit, until="Your message")
    keyboard.insert_text("Hello")
    keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_attribute("data-state", "done")
    expect(page.locator("#prompt")).to_be_focused()
    walked(visit, until="This request in Python", key="Shift+Tab")
    keyboard.press("Enter")
    expect(page.locator("dialog#snippet")).to_be_visible()
    keyboard.press("Escape")
    expect(page.get_by_role("button", name="This request in Python")).to_be_focused()
    walked(visit, until="Follow")


FOCUSED = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), css = getComputedStyle(e);
  const label = e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent;
  const seen = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
  return [label.trim(), seen && css.outlineStyle !== "none" && css.outlineWidth !== "0px"];
}"""


def walked(visit: Visit, until: str, key: str = "Tab") -> set[str]:
    """Go from stop to stop until this one has the focus; each must be seen to have it."""
    reached: set[str] = set()
    for _ in range(60):
        visit.page.keyboard.press(key)
        label, is_seen = visit.page.evaluate(FOCUSED)
        assert is_seen, f"nothing shows that {label!r} has the focus"
        reached.add(label)
        if label == until:
            return reached
    raise AssertionError(f"{until!r} is not among {reached}")


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_fault(
    chromium: Browser, card: GatewayHome, tmp_path: Path, scheme: str, width: int
) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    with visiting(chromium, card, **options) as visit:
        visit.expected.append(REFUSED)
        page, folder, name = visit.page, shots_in(tmp_path), f"{width}-{scheme}"
        assert visit.faults() == []
        visit.give_admin_key()
        visit.press("Load small")
        visit.is_in_state("small", "awake")
        expect(visit.ask("Hello", "big")).to_have_attribute("data-state", "done")
        page.get_by_label("What for").fill("ComfyUI")
        visit.press("Take")
        expect(page.locator(".lease")).to_contain_text("left")
        visit.is_in_state("big", "stopped")
        expect(visit.ask("Are you there?", "big")).to_have_attribute("data-state", "failed")
        expect(page.locator(".turn-failure").last).to_contain_text("gpu_busy")
        page.get_by_text("Parameters").click()
        assert visit.faults() == []
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) == 0, "the page scrolls sideways"
        visit.shoot(folder, name)
        page.locator("#as-code").click()
        assert visit.faults() == []
        page.screenshot(path=folder / f"{name}-code.png")
        page.keyboard.press("Escape")
        page.locator("#keys-open").click()
        assert visit.faults() == []
        page.screenshot(path=folder / f"{name}-keys.png")


def test_the_theme_can_be_chosen_and_is_kept(visit: Visit) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit.page.evaluate(background)
    visit.page.locator("#theme").click()
    assert visit.page.evaluate(background) == light
    visit.page.locator("#theme").click()
    dark = visit.page.evaluate(background)
    assert dark != light
    visit.page.reload()
    visit.is_live()
    assert visit.page.evaluate(background) == dark


# The files


def test_the_files_come_with_a_policy_and_a_tag(home: GatewayHome) -> None:
    with client_of(home) as http:
        page = http.get("/console")
        assert page.status_code == 200
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "style=" not in page.text
        assert re.findall(r"<script(?![^>]* src=)", page.text) == []
        known = {"if-none-match": page.headers["etag"]}
        again = http.get("/console", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        head = http.head("/console")
        assert (head.status_code, head.content) == (200, b"")
        for name in re.findall(r'"(/console/[^"]+)"', page.text):
            assert http.get(name).status_code == 200, name
        assert http.post("/console", json={}).status_code == 405
        assert http.get("/console/nothing.js").json()["error"]["code"] == "not_found"
        assert http.get("/console/%2e%2e/assets.py").status_code == 404
