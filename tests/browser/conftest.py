"""A headless Chromium that can reach the service under test and nothing else."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, Route, sync_playwright

from tests.service_process import ServiceProcess, running_service

ACTION_WAIT_MS = 15_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Visit:
    """One page in the browser, and everything that went wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def notice(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"console: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with running_service(tmp_path) as service:
        yield service


@pytest.fixture
def browser() -> Iterator[Browser]:
    """One browser per test: Playwright's event loop must not outlive the test that wanted it."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        message = "no Chromium on this machine; install it or name it in CHROMIUM"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=FLAGS,
            chromium_sandbox=os.geteuid() != 0,  # Chromium refuses to sandbox root
        )
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def visit(browser: Browser, service: ServiceProcess) -> Iterator[Visit]:
    """A new page; a request to any other host is blocked and counts as a complaint."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(ACTION_WAIT_MS)
    visit = Visit(context.new_page())

    def only_the_service(route: Route) -> None:
        if urlsplit(route.request.url).netloc == urlsplit(service.url).netloc:
            route.continue_()
        else:
            visit.complaints.append(f"another host: {route.request.url}")
            route.abort()

    context.route(lambda url: not url.startswith(("data:", "blob:")), only_the_service)
    visit.notice(visit.page)
    try:
        yield visit
    finally:
        context.close()
