"""The service itself is killed while everything runs: its tasks get the grace, then all is gone."""

from __future__ import annotations

import secrets
from pathlib import Path
from random import Random
from time import monotonic, sleep

import httpx

from tests.chaos.accounts import Account
from tests.chaos.findings import Broken, Findings
from tests.chaos.logbook import Line, read_lines
from tests.chaos.mixture import Draft, draw
from tests.chaos.site import CLIENT_LIMIT_S, LIMIT_S, LOOK_EVERY_S, MARK, TASKS, Json, Site
from tests.service_process import running_service
from workers.linux import pids_with_variable

DEATHS = 6
GRACE_S = 0.5
#: From the end of the grace until the last process has gone, on a busy machine.
KILLING_S = 5.0
#: From the death of the service until every worker has heard of it.
HEARING_S = 1.0
#: These end by themselves when they see their event set.
LOOKING = ("look", "wait", "leave", "report", "share", "entrust", "block", "run")
#: These do not, or leave something behind.
CARELESS = ("work", "litter", "share", "weave")


def deaths(folder: Path, dice: Random, scale: float) -> Findings:
    """Let a service die again and again; `scale` 1 is all of it."""
    findings = Findings("deaths")
    began = monotonic()
    for number in range(max(1, round(DEATHS * scale))):
        place = folder / f"death-{number}"
        place.mkdir()
        _die(findings, place, dice)
    findings.expect("kills of the service", DEATHS * scale)
    findings.expect("processes when it was killed", 4 * DEATHS * scale)
    findings.expect("tasks that ended in the grace", DEATHS * scale, by_chance=True)
    findings.took_s = monotonic() - began
    return findings


def _die(findings: Findings, place: Path, dice: Random) -> None:
    """One service, from its start to long after its death."""
    mark, runs = secrets.token_hex(8), place / "tmp"
    runs.mkdir()
    settings: Json = {
        "QUIESCE_TASKS": TASKS,
        "QUIESCE_SHUTDOWN_GRACE": str(GRACE_S),
        "QUIESCE_WORKERS": "5",
        "TMPDIR": str(runs),
        MARK: mark,
    }
    with running_service(place, **settings) as service:
        with httpx.Client(base_url=service.url, timeout=CLIENT_LIMIT_S) as client:
            site = Site(service, client, findings, place)
            looking = Draft("act", [dice.choice(LOOKING) for _ in range(2)], [20.0] * 2)
            careless = Draft("act", [dice.choice(CARELESS) for _ in range(2)], [20.0] * 2)
            for draft in (looking, careless):
                site.await_running(site.submit(draft))
            for _ in range(5):
                site.submit(draw(dice))
            sleep(dice.uniform(0, 0.2))
        findings.harshness["processes when it was killed"] += len(pids_with_variable(MARK, mark))
        died = monotonic()
        service.kill()
    findings.harshness["kills of the service"] += 1
    over = died + GRACE_S + KILLING_S
    while pids_with_variable(MARK, mark) and monotonic() < over + LIMIT_S:
        sleep(LOOK_EVERY_S)
    for pid in pids_with_variable(MARK, mark):
        findings.add(Broken.ORPHANED, f"process {pid} outlives the service")
    for path in runs.iterdir():
        findings.add(Broken.ORPHANED, f"{path} is left behind")
    if monotonic() > over:
        findings.add(Broken.HUNG, f"it took {monotonic() - died:.1f} s until all was gone")
    for account in site.accounts.values():
        _judge(findings, account, list(read_lines(account.log)), died)


def _judge(findings: Findings, account: Account, lines: list[Line], died: float) -> None:
    """What one batch wrote after the death of its service."""
    name, kinds = account.name, account.kinds
    findings.tasks += len(kinds)
    begun = {(line.index, line.pid): line for line in lines if line.word == "began"}
    ended = {(line.index, line.pid): line for line in lines if line.word == "ended"}
    late = {
        line.index: line
        for line in lines
        if line.at > died + GRACE_S + KILLING_S
        or (line.word == "began" and line.at > died + HEARING_S)
    }
    for index, line in late.items():
        findings.add(
            Broken.RAN_AFTER_STOP,
            f"{name}[{index}] {kinds[index]}: {line}, {line.at - died:.3f} s after the death",
        )
    findings.harshness["tasks that ended in the grace"] += sum(
        line.at > died for line in ended.values()
    )
    for key in begun.keys() - ended.keys():
        # With a time limit, it may have been killed for that before the service died.
        if kinds[key[0]] in LOOKING and account.timeout_s is None:
            findings.add(Broken.LOST, f"{name}{list(key)} {kinds[key[0]]} was not told of the end")
