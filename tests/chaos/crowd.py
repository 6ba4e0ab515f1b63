"""The crowd: hundreds of clients that stop the same batch at once, and as many that hang up on it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random
from time import monotonic, sleep, time
from urllib.parse import urlsplit

import httpx

from tests.chaos.accounts import Account, Ask
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import Draft
from tests.chaos.site import CLIENT_LIMIT_S, LIMIT_S, LOOK_EVERY_S, PAGE, Json, Site, running_site
from tests.chaos.targets import send

CLIENTS = 500
LEAST_CLIENTS = 60
ROUNDS = 4
#: Such that most clients come before the kill, or after it.
PATIENT_S = (2.0, 2.1, 2.3, None)
HASTY_S = (0.0, 0.1, 0.4, None)
#: How long a victim's tasks last, if nobody stops them: until the slowest client has come.
LASTS_S = 10.0
#: A request that was sent so long ago has arrived.
ARRIVES_S = 0.5
HASTY_GRACE_S = 0.2
#: The labels of batches whose client does not wait for the answer.
LEFT = {"client": "left"}
#: A connection that was hung up on must be given up by the service as well.
SPARE_DESCRIPTORS = 10
Post = tuple[Account, Json]
#: How the HTTP client calls the moment when a request is on its way.
SENT = "http11.send_request_body.complete"
_RESET = struct.pack("ii", 1, 0)


def crowd(folder: Path, dice: Random, scale: float) -> Findings:
    """Let the crowds come; `scale` 1 is all of them."""
    findings = Findings("crowd")
    clients = max(LEAST_CLIENTS, round(CLIENTS * scale))
    rounds = max(1, round(ROUNDS * scale))
    with running_site(findings, folder) as (site, _):
        descriptors = open_descriptors(site.service.pid)
        posts: list[Post] = []
        for number in range(rounds):
            graces_s = HASTY_S if number % 4 > 1 else PATIENT_S
            stop_together(site, dice, clients, graces_s, is_violent=number % 2 == 1)
            posts += hang_up(site, dice, clients)
            site.await_health()
        account_for(site, posts)
        end = monotonic() + LIMIT_S
        while open_descriptors(site.service.pid) > descriptors + SPARE_DESCRIPTORS:
            if monotonic() > end:
                findings.add(Broken.HUNG, "connections that were hung up on are kept open")
                break
            sleep(LOOK_EVERY_S)
        site.judge()
    findings.expect("DELETEs of one batch", clients * rounds)
    findings.expect("graces that arrived in time", clients / 10)
    findings.expect("clients that hung up", clients * rounds)
    return findings


def stop_together(
    site: Site,
    dice: Random,
    clients: int,
    graces_s: Sequence[float | None],
    *,
    is_violent: bool,
) -> None:
    """Many stop one batch at once: it is stopped once, and all get the same receipt."""
    bystander = site.submit(Draft("act", ["nap"] * 30, [0.01] * 30, {"priority": 1}))
    batch = site.submit(victim(dice))
    site.await_running(batch)
    account = site.accounts[batch["id"]]
    graces = [dice.choice(graces_s) for _ in range(clients)]
    at = monotonic()
    account.stops += [Ask(at, grace) for grace in graces]
    stops = asyncio.run(_stop_at_once(site, dice, batch, graces, is_violent=is_violent))
    site.findings.harshness["DELETEs of one batch"] += len(stops)
    replies = [reply for reply, _ in stops]
    receipts = {reply.content for reply in replies}
    if {reply.status_code for reply in replies} != {200} or len(receipts) != 1:
        shown = [*{(reply.status_code, reply.text) for reply in replies}][:3]
        site.findings.add(Broken.LOST, f"{len(receipts)} receipts of one stop: {shown}")
    _check_grace(site, graces, [sent for _, sent in stops], replies[0].json()["stop"])
    site.await_end(bystander)


def _check_grace(site: Site, graces: list[float | None], sent: list[float], receipt: Json) -> None:
    """The tightest counts of those that arrived before the end, whoever else came after it."""
    settled = datetime.fromisoformat(receipt["settled_at"]).timestamp()
    asked = [(grace, at) for grace, at in zip(graces, sent, strict=True) if grace is not None]
    arrived = [grace for grace, at in asked if at + ARRIVES_S < settled]
    told = receipt["grace"]
    if told not in graces or (arrived and (told is None or told > min(arrived))):
        site.findings.add(Broken.LOST, f"graces {sorted({*arrived})} came in time: {receipt}")
    site.findings.harshness["graces that arrived in time"] += len(arrived)


def victim(dice: Random) -> Draft:
    """A batch that is worth being stopped: most of it never begins, and somebody does not look."""
    kinds = ["work"] + [dice.choice(("work", "look", "wait", "leave", "share")) for _ in range(5)]
    return Draft("act", kinds + ["nap"] * 200, [LASTS_S] * len(kinds) + [0.0] * 200)


async def _stop_at_once(
    site: Site, dice: Random, batch: Json, graces: list[float | None], *, is_violent: bool
) -> list[tuple[httpx.Response, float]]:
    """Each reply, and at what time of day its request had been sent."""
    path, account = batch["links"]["self"], site.accounts[batch["id"]]

    async def stop(grace: float | None) -> tuple[httpx.Response, float]:
        sent: list[float] = []

        async def trace(event: str, _: object) -> None:
            if event == SENT:
                sent.append(time())

        params = {"grace": "never" if grace is None else grace}
        reply = await client.delete(path, params=params, extensions={"trace": trace})
        site.note_end(account)
        return reply, sent[-1]

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=site.service.url, timeout=CLIENT_LIMIT_S, limits=limits
    ) as client:
        stops = asyncio.gather(*map(stop, graces))
        if is_violent:
            await asyncio.to_thread(_strike, site, dice)
        return await stops


def _strike(site: Site, dice: Random) -> None:
    """Kill a worker."""
    workers = [worker["pid"] for worker in site.client.get("/pool").json()["workers"]]
    at, pid = monotonic(), dice.choice(workers)
    if send(pid, signal.SIGKILL, site.service.pid):
        site.blows.worker(pid, at)
        site.findings.harshness["kills of workers"] += 1


# --- clients that hang up -----------------------------------------------------------------------


def hang_up(site: Site, dice: Random, clients: int) -> list[Post]:
    """Many clients leave in the middle of whatever they asked for; the batches some of them sent."""
    batch = site.submit(victim(dice))
    bystander = site.submit(Draft("act", ["nap"] * 30, [0.01] * 30, {"priority": 1}))
    site.await_running(batch)
    site.accounts[batch["id"]].stops.append(Ask(monotonic(), HASTY_GRACE_S))
    posts = [site.prepare(Draft("act", ["look"] * 3, [0.02] * 3)) for _ in range(clients // 5)]
    sent = [request_of("POST", "/batches", body | {"labels": LEFT}) for _, body in posts]
    sent += [_draw_request(dice, batch) for _ in range(clients - len(posts))]
    visits = [
        _visit(site.service.url, text if dice.random() < 0.6 else _half(text, dice), dice)
        for text in sent
    ]
    dice.shuffle(visits)
    asyncio.run(_all(visits))
    site.findings.harshness["clients that hung up"] += len(visits)
    site.stop(batch, grace=HASTY_GRACE_S)
    site.await_end(bystander)
    return posts


def _draw_request(dice: Random, batch: Json) -> bytes:
    path = batch["links"]["self"]
    method, target = dice.choice(
        (
            ("DELETE", f"{path}?grace={HASTY_GRACE_S}"),
            ("DELETE", f"{path}?grace={HASTY_GRACE_S}"),
            ("GET", f"{path}?wait=30"),
            ("GET", f"{path}/results"),
            ("GET", f"{path}/tasks?limit={PAGE}"),
        )
    )
    return request_of(method, target)


async def _all(visits: list[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*visits)


def request_of(method: str, path: str, body: Json | None = None) -> bytes:
    """A request as it goes over the wire."""
    text = json.dumps(body).encode() if body is not None else b""
    head = [f"{method} {path} HTTP/1.1", "Host: chaos", f"Content-Length: {len(text)}"]
    if text:
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, "", ""]).encode() + text


def _half(request: bytes, dice: Random) -> bytes:
    return request[: dice.randrange(1, len(request))]


async def _visit(url: str, request: bytes, dice: Random) -> None:
    """Send, read a little or nothing, and hang up, now and then with a reset."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(request)
        await writer.drain()
        pause_s = dice.choice((0.0, 0.001, dice.uniform(0, 0.1)))
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(dice.choice((1, 200, 5_000))), pause_s)
        if dice.random() < 0.5:
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def account_for(site: Site, posts: Sequence[Post]) -> None:
    """A batch whose client left was accepted or not: if it was, it runs to its end like any other."""
    known: dict[str, Json] = {}
    cursor: str | None = None
    while True:
        params: Json = {"label": [f"{key}:{value}" for key, value in LEFT.items()], "limit": 100}
        page = site.client.get("/batches", params=params | ({"cursor": cursor} if cursor else {}))
        known |= {batch["name"]: batch for batch in page.json()["batches"]}
        if (cursor := page.json()["next"]) is None:
            break
    for account, _ in posts:
        batch = known.get(account.name)
        if batch is not None:
            site.accounts[batch["id"]] = account
            site.await_end(batch)
            site.findings.harshness["batches whose client had left"] += 1
        elif account.log.stat().st_size:
            site.findings.add(Broken.LOST, f"{account.name} ran, and nobody has accepted it")


def open_descriptors(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
