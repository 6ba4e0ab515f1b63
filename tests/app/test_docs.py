"""The docs page: our own files, a strict policy, nothing from another host."""

import base64
import hashlib
import re

import pytest
from fastapi import FastAPI

from app import problems
from app.docs import router
from tests.app.in_process import Client


@pytest.fixture
def client() -> Client:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(router)
    problems.install(app)
    return Client(app)


def test_the_page_and_all_it_loads_come_from_the_service(client: Client) -> None:
    """It has to work without the internet, and must not tell anybody that it is used."""
    page = client.ask("GET", "/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)

    assert "//" not in "".join(loaded)
    assert "validatorUrl: null" in page
    for address in loaded:
        assert client.ask("GET", f"/{address}").status_code == 200, address


def test_the_policy_allows_the_page_its_own_texts_and_no_other(client: Client) -> None:
    """A task's name or docstring that smuggles in a script must not get it run."""
    answer = client.ask("GET", "/docs")
    policy = answer.headers["content-security-policy"]
    inline = re.findall(r"<(script|style)>(.*?)</\1>", answer.text, re.DOTALL)

    assert len(inline) == 2
    for _, text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy


def test_the_assets_are_not_sent_twice(client: Client) -> None:
    """The script alone is more than a megabyte."""
    first = client.ask("GET", "/docs/swagger-ui-bundle.js")
    again = client.ask(
        "GET", "/docs/swagger-ui-bundle.js", headers={"if-none-match": first.headers["etag"]}
    )

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nope.js", "..%2Fdocs%2FLICENSE%00", "%2e%2e", "..%2f..%2fmain.py"]
)
def test_nothing_but_the_assets_is_served(client: Client, name: str) -> None:
    """A folder that is served is a way into the disk, unless it ends where it should."""
    answer = client.ask("GET", f"/docs/{name}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
