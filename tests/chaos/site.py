"""A real service as a process of its own for one part of the chaos, judged over HTTP and by its logs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

from tests.chaos.accounts import Account, Ask, Blows, Claim, TaskStop
from tests.chaos.audit import Auditor
from tests.chaos.findings import Broken, Findings
from tests.chaos.lives import Lives
from tests.chaos.mixture import Draft
from tests.chaos.task_audit import STOPPING
from tests.service_process import ServiceProcess
from workers.backend import Ending
from workers.linux import pids_with_variable

Json = dict[str, Any]

#: Every process of the service inherits it, wherever in the process tree it has moved to.
MARK = "CHAOS_MARK"
TASKS = "tests.chaos.tasks,tests.chaos.lasting_tasks"
CLIENT_LIMIT_S = 60.0
LIMIT_S = 30.0
LOOK_EVERY_S = 0.01
PAGE = 1_000
ACTIVE = frozenset({"queued", "running", "stopping", "interrupted"})
_NAMES = {
    "timeout_s": "timeout",
    "timeout_grace_s": "timeout_grace",
}
_ENDINGS = {
    "succeeded": Ending.RETURNED,
    "stopped": Ending.RETURNED,
    "failed": Ending.RAISED,
    "killed": Ending.KILLED,
}
_ENDINGS_BY_ERROR = {"WorkerLost": Ending.LOST, "TimeLimitExceeded": Ending.TIMED_OUT}


class Site:
    """A running service, a client for it, and the accounts of its batches by their ids."""

    def __init__(
        self, service: ServiceProcess, client: httpx.Client, findings: Findings, folder: Path
    ) -> None:
        self.service, self.client, self.findings = service, client, findings
        self.blows = Blows()
        self.accounts: dict[str, Account] = {}
        self.purged: list[Account] = []
        self._folder = folder
        self._numbers = count(1)

    def prepare(self, draft: Draft) -> tuple[Account, Json]:
        """The account of a batch that is to be submitted, and the body that submits it."""
        name = f"{self.findings.part}-{next(self._numbers)}"
        log = self._folder / name
        log.touch()
        retries = draft.options.get("retries")
        account = Account(
            name,
            log,
            draft.kinds,
            timeout_s=draft.options.get("timeout_s"),
            timeout_grace_s=draft.options.get("timeout_grace_s", 0.0),
            max_attempts=retries.max_attempts if retries is not None else 1,
            tells_every_attempt=False,
        )
        body = {
            "task": draft.task,
            "items": draft.items(str(log)),
            "name": name,
            "options": http_options(draft.options),
        }
        return account, body

    def submit(self, draft: Draft, **fields: Any) -> Json:
        """POST a batch; the batch as it was accepted."""
        account, body = self.prepare(draft)
        reply = self.client.post("/batches", json=body | fields)
        assert reply.status_code == 202, reply.text
        batch: Json = reply.json()
        self.accounts[batch["id"]] = account
        return batch

    def stop(self, batch: Json, **params: Any) -> httpx.Response:
        """DELETE a batch; a 200 says that nothing of it runs any more."""
        self.note_stop(batch, params.get("grace"))
        reply = self.client.delete(batch["links"]["self"], params=params)
        if reply.status_code == 200:
            self.note_end(self.accounts[batch["id"]])
        return reply

    def resume(self, batch: Json, states: Collection[str]) -> httpx.Response:
        """POST a resume; what the batch writes from here on belongs to its next run."""
        account, at = self.accounts[batch["id"]], monotonic()
        reply = self.client.post(f"{batch['links']['self']}/resume", params={"states": [*states]})
        if reply.status_code == 202:
            account.resumed.append(at)
            account.size_at_end = None
            for stop in account.task_stops.values():
                stop.size_at_end = None
        return reply

    def purge(self, batch: Json) -> httpx.Response:
        """DELETE a batch and all that is known of it; it must not write another line."""
        account = self.accounts[batch["id"]]
        params: Json = {"purge": True, "grace": 0}
        reply = self.client.delete(batch["links"]["self"], params=params)
        if reply.status_code == 200:
            self.note_end(account)
            self.purged.append(self.accounts.pop(batch["id"]))
        return reply

    def restart(self, lives: Lives, end: str) -> None:
        """A deploy or a crash, and the next service with the same data."""
        self.client.close()
        began = monotonic()
        if end == "deploy":
            lives.stop()
        else:
            lives.kill()
        self.blows.service(began, monotonic())
        lives.begin()
        lives.await_ready()
        self.service = lives.service
        self.client = httpx.Client(base_url=lives.url, timeout=CLIENT_LIMIT_S)

    def note_stop(self, batch: Json, grace: float | str | None) -> None:
        """A stop is about to be asked for; of a batch that has ended it changes nothing."""
        if self.look(batch)["state"] in ACTIVE:
            grace_s = None if isinstance(grace, str) else grace
            self.accounts[batch["id"]].stops.append(Ask(monotonic(), grace_s))

    def stop_task(self, batch: Json, index: int, **params: Any) -> httpx.Response:
        """DELETE one task; a 200 says that nothing of it runs any more."""
        account, grace = self.accounts[batch["id"]], params.get("grace")
        stop = account.task_stops.setdefault(index, TaskStop())
        stop.asks.append(Ask(monotonic(), None if isinstance(grace, str) else grace))
        reply = self.client.delete(f"{batch['links']['tasks']}/{index}", params=params)
        if reply.status_code == 200 and stop.size_at_end is None:
            stop.size_at_end = account.log.stat().st_size
        return reply

    def results(self, batch: Json) -> list[Json]:
        """What the stream of results gives now."""
        reply = self.client.get(batch["links"]["results"])
        assert reply.status_code == 200, reply.text
        return [json.loads(line) for line in reply.text.splitlines()]

    def look(self, batch: Json, **params: Any) -> Json:
        """GET a batch."""
        reply = self.client.get(batch["links"]["self"], params=params)
        assert reply.status_code == 200, reply.text
        seen: Json = reply.json()
        if seen["state"] not in ACTIVE:
            self.note_end(self.accounts[batch["id"]])
        return seen

    def note_end(self, account: Account) -> None:
        """It was just said that nothing of the batch runs: from here on its log must not grow."""
        if account.size_at_end is None:
            account.size_at_end = account.log.stat().st_size

    def await_running(self, batch: Json) -> Json:
        """The batch, once some of it runs or it has ended."""
        end = monotonic() + LIMIT_S
        while not (seen := self.look(batch))["counts"]["running"] and seen["state"] in ACTIVE:
            if monotonic() > end:
                self.findings.add(Broken.HUNG, f"{seen['name']} does not begin")
                break
            sleep(LOOK_EVERY_S)
        return seen

    def await_end(self, batch: Json) -> Json:
        """The batch once it has ended; it must."""
        seen = self.look(batch, wait=LIMIT_S)
        if seen["state"] in ACTIVE:
            self.findings.add(Broken.HUNG, f"{seen['name']} does not end: {seen['counts']}")
        return seen

    def await_health(self) -> None:
        """Whatever happened, the service must soon be ready, with every worker idle."""
        end = monotonic() + LIMIT_S
        while not self._is_well():
            if monotonic() > end:
                pool = self.client.get("/pool").json()
                self.findings.add(Broken.HUNG, f"it does not recover: {pool}")
                return
            sleep(LOOK_EVERY_S)

    def judge(self) -> None:
        """Compare what was written with what is said of every batch."""
        auditor = Auditor(self.findings, self.blows)
        for batch_id, account in self.accounts.items():
            batch = self.client.get(f"/batches/{batch_id}").json()
            has_failed = batch["stop"] is not None or account.resumed
            if batch["options"]["fail_fast"] and has_failed:
                account.stopped_itself = -inf  # perhaps, and nobody says when
            path: str | None = f"/batches/{batch_id}/tasks?limit={PAGE}"
            while path is not None:
                page = self.client.get(path).json()
                for task in page["tasks"]:
                    self._take(account, task)
                following = page["next"]
                path = following and f"/batches/{batch_id}/tasks?limit={PAGE}&cursor={following}"
            auditor.judge(account)
        for account in self.purged:
            auditor.judge_purged(account)

    def _take(self, account: Account, task: Json) -> None:
        """Note what is said of one task of a batch that has ended."""
        state, index = task["state"], task["index"]
        self.findings.harshness[f"tasks {state}"] += 1
        if state in _ENDINGS:
            account.claims[index].append(claim_of(task, account.kinds[index]))
            account.finals[index] += 1
        elif state != "skipped":
            self.findings.add(Broken.LOST, f"{account.name}[{index}] is {state} for ever")

    def _is_well(self) -> bool:
        if self.client.get("/health/ready").status_code != 200:
            return False
        pool = self.client.get("/pool").json()
        idle = [worker for worker in pool["workers"] if worker["state"] == "idle"]
        return bool(len(idle) == pool["size"] == len(pool["workers"]))


def claim_of(task: Json, kind: str) -> Claim:
    """What `GET /batches/{id}/tasks` says of a task, as a pool would have said it."""
    ending, error, result = _ENDINGS[task["state"]], task.get("error"), task.get("result")
    if error is not None:
        ending = _ENDINGS_BY_ERROR.get(error["type"], ending)
    elif kind in STOPPING and result is None and ending is Ending.RETURNED:
        ending = Ending.STOPPED
    payload = json.dumps(result if error is None else error, separators=(",", ":")).encode()
    is_noticed = task["noticed_at"] is not None
    return Claim(task["attempt"], ending, task["pid"], is_noticed, payload)


def http_options(options: Json) -> Json:
    """A batch's options as they are sent."""
    told = {_NAMES.get(name, name): value for name, value in options.items()}
    if (policy := told.get("retries")) is not None:
        told["retries"] = {
            "max_attempts": policy.max_attempts,
            "backoff": policy.backoff_s,
            "max_backoff": policy.max_backoff_s,
        }
    return told


@contextmanager
def running_site(findings: Findings, folder: Path, **env: Any) -> Iterator[tuple[Site, Lives]]:
    """A service for one part of the programme, and those that follow it; what they leave is found."""
    began, mark = monotonic(), secrets.token_hex(8)
    logs = folder / findings.part
    logs.mkdir()
    env |= {"QUIESCE_TASKS": TASKS, "QUIESCE_LOG_LEVEL": "warning", MARK: mark}
    with Lives(folder, env) as lives:
        lives.begin()
        lives.await_ready()
        client = httpx.Client(base_url=lives.url, timeout=CLIENT_LIMIT_S)
        site = Site(lives.service, client, findings, logs)
        try:
            yield site, lives
        finally:
            site.client.close()
        lives.stop()
    for pid in pids_with_variable(MARK, mark):
        findings.add(Broken.ORPHANED, f"process {pid} is left behind")
    if "Traceback" in site.service.stderr():
        findings.examples.append(f"{findings.part}: {site.service.report('an unexpected error')}")
    findings.took_s = monotonic() - began
