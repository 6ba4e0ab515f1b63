"""The docs page as a newcomer uses it: press the example, then stop what it started."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect

from tests.browser.conftest import Visit
from tests.service_process import ServiceProcess

ASSETS = Path(__file__).resolve().parents[2] / "app" / "static" / "docs"

PHONE: ViewportSize = {"width": 390, "height": 844}
ONE_BATCH = "[data-path^='/batches/{'][data-path$='}']:not([data-path*='/tasks/'])"
STOP_WAIT_MS = 30_000

README = (ASSETS / "README.md").read_text(encoding="utf-8")
SUMS = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", README, re.MULTILINE))


def operation(page: Page, method: str, path: str) -> Locator:
    """One unfolded operation, ready to be executed.

    path  CSS for the element that shows the operation's path
    """
    block = page.locator(f".opblock-{method}", has=page.locator(path))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    return block


def execute(block: Locator, status: int) -> dict[str, Any]:
    """Press Execute; the JSON that the page shows once the service answered with `status`."""
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator("tr.response td.response-col_status")).to_contain_text(
        str(status), timeout=STOP_WAIT_MS
    )
    shown = json.loads(answer.locator(".highlight-code pre").first.inner_text())
    assert isinstance(shown, dict)
    return shown


def overflow_px(page: Page) -> int:
    """How far the page itself can be scrolled sideways."""
    width = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return int(width)


def test_the_docs_page_starts_a_batch_and_stops_it(
    visit: Visit, service: ServiceProcess, tmp_path: Path
) -> None:
    """The first thing a newcomer tries has to work, also without the internet and on a phone."""
    page = visit.page
    page.goto(f"{service.url}/docs")
    batch = execute(operation(page, "post", "[data-path='/batches']"), 202)
    page.screenshot(path=tmp_path / "desktop-accepted.png")
    stop = operation(page, "delete", ONE_BATCH)
    stop.locator("tr[data-param-in='path'] input").fill(batch["id"])
    receipt = execute(stop, 200)
    stop.locator(".live-responses-table").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "desktop-stopped.png")
    page.screenshot(path=tmp_path / "desktop-whole.png", full_page=True)

    page.set_viewport_size(PHONE)
    page.screenshot(path=tmp_path / "phone.png")
    page.screenshot(path=tmp_path / "phone-whole.png", full_page=True)

    assert receipt["id"] == batch["id"]
    assert receipt["state"] == "stopped"
    assert receipt["stop"]["settled_at"]
    assert overflow_px(page) == 0
    assert visit.complaints == []


def test_the_page_asks_no_other_host_even_when_it_is_not_on_loopback(
    visit: Visit, service: ServiceProcess
) -> None:
    """Swagger UI tells a validator of every page that is not on loopback, unless told not to."""
    page = visit.page
    page.goto(f"{service.url}/docs")
    expect(page.locator(".opblock").first).to_be_visible()

    assert re.search(r"""["']?validatorUrl["']?\s*:\s*null""", page.content())
    assert "://" not in re.sub(r"https?://127\.0\.0\.1:\d+", "", scripts_and_styles(page))


def scripts_and_styles(page: Page) -> str:
    """The addresses of all that the page has loaded, one a line."""
    found = page.evaluate("performance.getEntriesByType('resource').map(e => e.name).join('\\n')")
    return str(found)


@pytest.mark.parametrize("name", sorted(SUMS))
def test_the_vendored_files_are_those_that_were_published(name: str) -> None:
    """Nobody reviews a minified file: its sum says that it is the one of the release."""
    assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == SUMS[name]


def test_every_vendored_file_has_its_sum() -> None:
    """A script that slips in without one would be served all the same."""
    served = {path.name for path in ASSETS.iterdir() if path.suffix in {".js", ".css", ".png"}}

    assert served == set(SUMS)
