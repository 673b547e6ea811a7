"""The console in a real browser: whatever the browser complains of fails the test."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.harness import PATIENCE_S, GatewayHome

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

AXE = Path(__file__).parents[1] / "sdks/node_modules/axe-core/axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe is not installed: make integration")

SHOTS = "CONSOLE_SCREENSHOTS"
"""Names the directory that screenshots are kept in; by default the test's own."""

RESTLESS = r"net::ERR_NETWORK_CHANGED"
"""Containers of others come and go, and their interfaces with them; the page copes."""

REFUSED = r"Failed to load resource: the server responded with a status of"
GONE = r"Failed to load resource: net::|net::ERR_"

AXE_RUN = """async () => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"]});
  return violations
    .filter(({impact}) => impact === "serious" || impact === "critical")
    .map(({id, help, nodes}) => `${id}: ${help}: ${nodes.map(({html}) => html).join(" | ")}`);
}"""


@dataclass
class Visit:
    """A page that shows the console of a gateway.

    Attributes:
        page: The page.
        home: The gateway.
        expected: Complaints that the test is about, as regular expressions.
        complaints: What the browser complained of: errors of scripts, of the policy, of loading.
    """

    page: Page
    home: GatewayHome
    expected: list[str] = field(default_factory=lambda: [RESTLESS])
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def open(self) -> None:
        """Show the console, and wait until it has the gateway's state."""
        self.page.goto(self.home.url + "/console")
        self.is_live()

    def is_live(self) -> None:
        expect(self.page.locator("#link-text")).to_have_text("Live")

    def model(self, name: str) -> Any:
        return self.page.locator(f'[data-model="{name}"]')

    def is_in_state(self, name: str, state: str) -> None:
        expect(self.model(name).locator(".badge")).to_have_attribute("data-state", state)

    def press(self, name: str) -> None:
        """Press the button of this name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def give_admin_key(self) -> None:
        """Type the admin key into the dialog that asks for it, or that is opened."""
        if not self.page.locator("dialog#keys").is_visible():
            self.page.locator("#keys-open").click()
        self.page.get_by_label("Admin key").fill(self.home.admin["authorization"].split()[1])
        self.press("Use")
        expect(self.page.locator("dialog#keys")).not_to_be_visible()

    def ask(self, text: str, model: str) -> Any:
        """Ask a model in the playground; return the turn."""
        self.page.locator("#chat-model").select_option(model)
        self.page.locator("#prompt").fill(text)
        self.press("Send")
        return self.page.locator(".turn").last

    def told(self) -> list[str]:
        """What people who listen to the page have heard."""
        return self.page.locator("#announcer p").all_text_contents()

    def faults(self) -> list[str]:
        """Serious and critical faults that axe finds in what is shown now."""
        self.page.evaluate(AXE.read_text())
        found: list[str] = self.page.evaluate(AXE_RUN)
        return found

    def shoot(self, folder: Path, name: str) -> None:
        """Keep a picture of the whole page."""
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=folder / f"{name}.png", full_page=True)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def visiting(chromium: Browser, home: GatewayHome, **options: Any) -> Iterator[Visit]:
    """Open the console of a gateway in a browser that knows nothing of other visits."""
    expect.set_options(timeout=PATIENCE_S * 1000)
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE_S * 1000)
    try:
        visit = Visit(context.new_page(), home)
        visit.listen()
        visit.open()
        yield visit
        bad = [x for x in visit.complaints if not any(re.search(e, x) for e in visit.expected)]
        assert bad == []
    finally:
        context.close()


def shots_in(default: Path) -> Path:
    """Return the directory for screenshots."""
    folder = Path(os.environ.get(SHOTS) or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
