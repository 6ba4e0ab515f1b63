"""crawl, over a real web site: which pages it asks for, what it says of them, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

import pytest

from tests.workers.driver import Driver, eventually, running_pool
from tests.workers.site import Answer, Site, page, raw, redirect, running_site
from workers import fetching
from workers.backend import Remarks
from workers.examples import HOSTS_VARIABLE, require_host
from workers.fetching import MAX_PAGE_BYTES, NoPage, fetch, site_of

#: What a task that awaits may take to end, on a machine that is busy with other things.
SOON_S = 2.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Driver]:
    """Two workers for the whole file."""
    with running_pool(modules=("workers.examples",)) as driver:
        yield driver


@pytest.fixture
def site() -> Iterator[Site]:
    """A web site without any page yet."""
    with running_site() as site:
        yield site


def test_crawl_follows_links_of_the_same_host_only(pool: Driver, site: Site) -> None:
    """Each page once, however it is linked, and everything else not at all."""
    other = f"http://localhost:{site.server_port}/other"
    site.pages = {
        "/": page(
            "/a", "a#part", "./a", other, "https://127.0.0.1/", "mailto:x@y", "http://[", "//"
        ),
        "/a": page("/b?x=1&y=%20", "/missing", site.url("/"), "http://127.0.0.1:1/"),
        "/b?x=1&y=%20": page("/c"),
        "/c": page(),
    }
    found = pool.run("crawl", start=site.url()).value()

    assert found == {
        site.url("/"): "200",
        site.url("/a"): "200",
        site.url("/b?x=1&y=%20"): "200",
        site.url("/missing"): "404",
    }
    assert sorted(site.asked) == ["/", "/a", "/b?x=1&y=%20", "/missing"]


def test_crawl_goes_no_further_than_it_was_told(pool: Driver, site: Site) -> None:
    """So many links away, and so many pages in all."""
    site.pages = {"/": page(*(f"/{n}" for n in range(50)))}
    near = pool.run("crawl", start=site.url(), depth=0).value()
    few = pool.run("crawl", start=site.url(), most=7).value()

    assert list(near) == [site.url("/")]
    assert len(few) == 7


def test_crawl_follows_a_redirect_as_a_link(pool: Driver, site: Site) -> None:
    """On the same host; where another host is meant, nobody asks it."""
    asked: list[str] = []
    with running_site() as another:
        site.pages = {
            "/": page("/away", "/here"),
            "/away": redirect(another.url("/secret")),
            "/here": redirect("/there"),
            "/there": page(),
        }
        found = pool.run("crawl", start=site.url()).value()
        asked = another.asked

    assert {url.removeprefix(site.url("")): answer for url, answer in found.items()} == {
        "/": "200", "/away": "302", "/here": "302", "/there": "200",
    }  # fmt: skip
    assert asked == []


def test_a_stopped_crawl_keeps_what_it_has_found(pool: Driver, site: Site) -> None:
    """It is cancelled where it awaits an answer that does not come."""
    site.pages = {"/": page("/slow", "/slower"), "/slow": site.hang, "/slower": site.hang}
    batch = pool.submit("crawl", [{"start": site.url()}])
    eventually(lambda: len(site.asked) == 3)
    eventually(lambda: pool.running(batch)[0].is_waiting)
    asked = monotonic()
    pool.stop(batch)

    assert batch.value() == {site.url("/"): "200"}
    assert asked < batch.outcomes[0].noticed <= batch.outcomes[0].ended < asked + SOON_S
    assert batch.outcomes[0].remarks is Remarks.NONE


def test_crawl_asks_no_host_that_is_not_configured(pool: Driver) -> None:
    """The service must not be the way into somebody's network."""
    error = pool.run("crawl", start="http://192.0.2.1/").error()
    batch = pool.submit("crawl", [{"start": "file:///etc/passwd"}, {"start": "http://"}]).wait()

    assert error["type"] == "PermissionError"
    assert error["message"] == f"'192.0.2.1' is not one of the hosts in {HOSTS_VARIABLE}"
    assert batch.error(0)["type"] == "ParameterError"
    assert batch.error(1)["message"] == "'http://': not a plain http:// URL"


@pytest.mark.parametrize(
    ("hosts", "url", "is_allowed"),
    [
        (None, "http://127.0.0.1:8000/docs", True),
        (None, "http://LOCALHOST/", True),
        (None, "http://127.0.0.2/", False),
        (None, "http://127.0.0.1.example.org/", False),
        (None, "http://example.org/127.0.0.1", False),
        ("example.org", "http://EXAMPLE.org:8080/", True),
        ("Example.org,::1", "http://[::1]/", True),
        ("example.org", "http://127.0.0.1/", False),
        ("", "http://127.0.0.1/", False),
    ],
)
def test_a_host_is_allowed_by_its_whole_name(
    monkeypatch: pytest.MonkeyPatch, hosts: str | None, url: str, is_allowed: bool
) -> None:
    """Not by a part of it; and none by default but this machine's."""
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    if hosts is not None:
        monkeypatch.setenv(HOSTS_VARIABLE, hosts)

    if is_allowed:
        require_host(url)
    else:
        with pytest.raises(PermissionError, match="is not one of the hosts"):
            require_host(url)


@pytest.mark.parametrize(
    "url",
    ["https://h/", "ftp://h/", "//h/", "http:///p", "http://u@h/", "http://h:x/", "http://[h/"],
)
def test_anything_but_plain_http_is_refused(url: str) -> None:
    """A link may say anything."""
    with pytest.raises(NoPage):
        site_of(url)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (raw(b"what is this"), "not HTTP: BadStatusLine"),
        (raw(), "not HTTP: RemoteDisconnected"),
        (raw(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1_000), "not HTTP: HTTPException"),
        (raw(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nshort"), "200"),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "200"),
        (page("/x", kind="text/plain"), "200"),
    ],
    ids=["no HTTP", "nothing", "too many headers", "cut short", "bad chunks", "no HTML"],
)
def test_a_page_may_answer_anything(site: Site, answer: Answer, says: str) -> None:
    """It is told, and harms nobody; only HTML is looked into."""
    site.pages = {"/": answer}
    try:
        found = asyncio.run(fetch(site.url()))
    except NoPage as problem:
        found = fetching.Page(str(problem), [])

    assert found == (says, [])


def test_broken_html_gives_the_links_before_the_break(site: Site) -> None:
    """The standard library's parser gives up with an assertion."""
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n"
    site.pages = {"/": raw(head, b"<a href='/x'>x</a> <![ oh <a href='/y'>y</a>")}

    assert site.url("/x") in asyncio.run(fetch(site.url())).links


def test_links_are_found_across_the_chunks_of_an_answer(site: Site) -> None:
    """Though it was asked by HTTP/1.0, a server may answer so."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
    site.pages = {"/": raw(head, b'8\r\n<a href=\r\n5\r\n"/x">\r\n0\r\n\r\n')}

    assert asyncio.run(fetch(site.url())).links == [site.url("/x")]


def test_no_more_of_a_page_is_read_than_its_limit(site: Site) -> None:
    """Memory, and the time that parsing blocks the loop, are bounded by it."""
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<a href='/first'>"
    site.pages = {"/": raw(head, b" " * MAX_PAGE_BYTES, b"<a href='/last'>")}

    assert asyncio.run(fetch(site.url())).links == [site.url("/first")]


def test_a_page_that_does_not_come_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr(fetching, "PAGE_LIMIT_S", 0.05)
    site.pages = {"/": site.hang}

    with pytest.raises(NoPage, match=r"no answer within 0\.05 s"):
        asyncio.run(fetch(site.url()))


def test_a_host_that_is_not_there_is_told() -> None:
    """A closed port, a name that nobody has, a name that is none."""
    for url, reason in (
        ("http://127.0.0.1:1/", "ConnectionRefusedError"),
        (f"http://{'x' * 64}/", r"Unicode\w*Error|gaierror"),
    ):
        with pytest.raises(NoPage, match=reason):
            asyncio.run(fetch(url))


def test_a_url_cannot_smuggle_lines_into_the_request(site: Site) -> None:
    """What a link says goes into one line, escaped."""
    asyncio.run(fetch(site.url("/a\r\nX-Evil: 1\r\n\r\nGET /b?c=d\r\ne")))

    assert site.asked == ["/aX-Evil:%201GET%20/b?c=de"]
