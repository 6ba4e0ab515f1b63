"""Crashes: the service is killed at random moments under load, and started again on the same data."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice, pairwise
from pathlib import Path
from random import Random
from time import monotonic, sleep

from app.lifecycle import BATCH_MOVES, FINAL, BatchState
from tests.chaos.clients import CrashClient
from tests.chaos.crash_audit import CrashAudit
from tests.chaos.findings import Broken, Findings
from tests.chaos.lives import Lives
from tests.chaos.site import LIMIT_S, MARK, TASKS, Json
from tests.chaos.told import ENDED, Told
from tests.databases import running_postgresql
from workers.linux import pids_with_variable

ENDS = 60
LEAST_ENDS = 3
CLIENTS = 5
#: One of these for each life: after the long one, tasks are still there when the next has begun.
GRACES_S = (0.3, 0.3, 0.3, 3.0)
#: The grace, the longest critical section, and room for a busy machine.
DEPLOY_LIMIT_S = 10.0
#: From its start on; and from when it was ready on.
LONGEST_START_S, LONGEST_LIFE_S = 2.0, 2.0
#: Until the next one is started.
LONGEST_REST_S = 0.6
#: How services end. A short programme has the first of these, a long one all of them many times.
WAYS = (
    *("kill", "kill with warden", "kill in deploy", "kill", "kill at start", "deploy"),
    *("kill", "kill at start", "kill", "kill with warden"),
)
MOVES = {*((a, b) for a, later in BATCH_MOVES.items() for b in later)}
RESUMES = {(state, BatchState.QUEUED) for state in FINAL}

KILLS = "kills of the service"
#: What at least must have happened in all lives together.
LEAST = {
    KILLS: 50,
    "batches": 200,
    "requests without an answer": 50,
    "outcomes compared": 2_000,
    "resumes": 20,
    "purges": 5,
    "keys used again": 20,
    "stops answered 200": 30,
    "stops answered 202": 20,
    "batches interrupted": 50,
}


def crashes(folder: Path, dice: Random, scale: float) -> Findings:
    """Let services die that keep their batches in a file; `scale` 1 is all of it."""
    return _crash(Findings("crashes"), folder, dice, scale, {})


def crashes_on_postgresql(folder: Path, dice: Random, scale: float) -> Findings:
    """Let services die that keep their batches on a PostgreSQL server."""
    with running_postgresql() as server, server.fresh_database() as url:
        env = {"QUIESCE_DATABASE": url}
        return _crash(Findings("crashes on postgresql"), folder, dice, scale, env)


def _crash(
    findings: Findings, folder: Path, dice: Random, scale: float, env: dict[str, str]
) -> Findings:
    began, mark, logs = monotonic(), secrets.token_hex(8), folder / "logs"
    logs.mkdir()
    env |= {
        "QUIESCE_TASKS": TASKS,
        "QUIESCE_WORKERS": "4",
        "QUIESCE_LOG_LEVEL": "warning",
        MARK: mark,
    }
    with Lives(folder, env) as lives:
        clients = [
            CrashClient(number, lives, logs, Random(dice.getrandbits(32)))
            for number in range(CLIENTS)
        ]
        with _running(clients):
            ways = [*islice(cycle(WAYS), max(LEAST_ENDS, round(ENDS * scale)))]
            dice.shuffle(ways)
            for way in ways:
                _live(lives, way, dice, findings)
        lives.begin()
        lives.await_ready()
        audit = CrashAudit(findings, lives.births, lives.deaths)
        for client in clients:
            _settle(client, audit, findings)
        audit.judge_lives()
        lives.stop()
        if "Traceback" in lives.service.stderr():
            findings.examples.append(lives.service.report("an unexpected error"))
    for pid in pids_with_variable(MARK, mark):
        findings.add(Broken.ORPHANED, f"process {pid} is left behind")
    for name, least in LEAST.items():
        findings.expect(name, least * scale, by_chance=name != KILLS)
    findings.took_s = monotonic() - began
    return findings


@contextmanager
def _running(clients: list[CrashClient]) -> Iterator[None]:
    """All clients at work, until the block is left."""
    over = threading.Event()
    with ThreadPoolExecutor(len(clients)) as threads:
        ends = [threads.submit(client.run, over) for client in clients]
        try:
            yield
        finally:
            over.set()
    for end in ends:
        end.result()


def _live(lives: Lives, way: str, dice: Random, findings: Findings) -> None:
    """One life, from its start to its end."""
    grace_s = dice.choice(GRACES_S)
    lives.begin(QUIESCE_SHUTDOWN_GRACE=str(grace_s))
    if way == "kill at start":
        sleep(dice.uniform(0, LONGEST_START_S))
    else:
        lives.await_ready()
        # The first one lasts, or there is nothing to go on with.
        longest_s = dice.choice((LONGEST_LIFE_S / 10, LONGEST_LIFE_S))
        sleep(dice.uniform(0, longest_s) if lives.deaths else LONGEST_LIFE_S)
    if way == "deploy":
        began = monotonic()
        lives.stop()
        if (took_s := monotonic() - began) > DEPLOY_LIMIT_S:
            what = lives.service.report(f"{took_s:.0f} s from SIGTERM to the end")
            findings.add(Broken.HUNG, what)
        findings.harshness["deploys"] += 1
        return
    if way == "kill in deploy":
        lives.service.process.terminate()
        sleep(dice.uniform(0, grace_s))
    lives.kill(with_warden=way == "kill with warden")
    findings.harshness[KILLS] += 1
    findings.harshness[way] += 1
    sleep(dice.choice((0.0, 0.0, dice.uniform(0, LONGEST_REST_S))))


def _settle(client: CrashClient, audit: CrashAudit, findings: Findings) -> None:
    """Everything that this client was told of comes to an end, and is accounted for."""
    client.connect()
    for told in client.told:
        tasks: dict[int, Json] = {}
        if told.batch is not None and not told.is_gone:
            client.look(told, told.batch, wait_s=LIMIT_S)
            if told.batch["state"] in ENDED:
                client.read_tasks(told, told.batch)
                client.read_results(told, told.batch)
                tasks = told.ends
                if len(tasks) != told.batch["total"]:
                    findings.add(Broken.LOST, f"{told.name}: {len(tasks)} ends of {told.batch}")
                _judge_history(client, told, findings)
            elif not told.is_gone:
                findings.add(Broken.HUNG, f"{told.name} does not end: {told.batch}")
        audit.judge(told, tasks)
    client.close()
    findings.take_in(client.findings)


def _judge_history(client: CrashClient, told: Told, findings: Findings) -> None:
    """It leads from state to state by legal moves, to where the batch is."""
    assert told.batch is not None
    reply = client.ask("GET", told.batch["links"]["history"])
    if reply is None:
        findings.add(Broken.LOST, f"{told.name}: no history")
        return
    states = [BatchState(entry["state"]) for entry in reply.json()["entries"]]
    steps = {*pairwise(states)}
    if steps - MOVES - RESUMES or states[0] != "queued" or states[-1] != told.batch["state"]:
        findings.add(Broken.LOST, f"{told.name}: history {states}, {told.batch}")
    findings.harshness["batches interrupted"] += "interrupted" in states
