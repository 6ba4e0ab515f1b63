"""A state machine over HTTP: any sequence of requests and kills, with the promises as invariants."""

from __future__ import annotations

import signal
from pathlib import Path
from random import Random
from time import monotonic
from typing import ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.lifecycle import BATCH_MOVES, CUT_SHORT, RESUMABLE, TASK_FINAL, TASK_MOVES, BatchState
from tests.chaos.findings import Broken, Findings
from tests.chaos.lives import Lives
from tests.chaos.mixture import draw
from tests.chaos.reachable import reachable
from tests.chaos.site import ACTIVE, PAGE, Json, Site, running_site
from tests.chaos.targets import DEADLY, HARMLESS, manager_of, send, warden_of
from tests.chaos.told import LATER
from tests.databases import running_postgresql

EXAMPLES = 200
#: A server answers a little later, and what is different there is not the machine.
EXAMPLES_ON_POSTGRESQL = 100
STEPS = 30
LONGEST_WAIT_S = 0.2
#: How many batches one sequence has at a time, so that each is looked at often.
MOST_LIVE = 4
#: There is a request or two between the steps, so tasks last longer than elsewhere.
STRETCH = 3.0

#: What at least must have happened in all sequences together.
LEAST = {
    "batches": 400,
    "stops": 100,
    "stops of single tasks": 100,
    "kills of a worker": 40,
    "kills of a Manager": 20,
    "kills of a warden": 20,
    "ends of the service": 20,
    "resumes": 40,
    "purges": 20,
}


def machine(folder: Path, dice: Random, scale: float) -> Findings:
    """Have the machine try many sequences; `scale` 1 is all of them."""
    return _run(Findings("machine"), folder, dice, EXAMPLES, scale)


def machine_on_postgresql(folder: Path, dice: Random, scale: float) -> Findings:
    """The same with a service that keeps its batches on a PostgreSQL server."""
    with running_postgresql() as server, server.fresh_database() as url:
        findings = Findings("machine on postgresql")
        return _run(findings, folder, dice, EXAMPLES_ON_POSTGRESQL, scale, QUIESCE_DATABASE=url)


def _run(
    findings: Findings, folder: Path, dice: Random, examples: int, scale: float, **env: str
) -> Findings:
    env["QUIESCE_SHUTDOWN_GRACE"] = str(GRACE_S)
    with running_site(findings, folder, **env) as (Client.site, Client.lives):
        try:
            chosen = _settings(round(examples * scale))
            run_state_machine_as_test(seed(dice.getrandbits(32))(Client), settings=chosen)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is told
            notes = getattr(error, "__notes__", "")
            findings.examples.append(f"{findings.part}: {error!r} {notes}")
        Client.site.judge()
    for name, least in LEAST.items():
        findings.expect(name, least * scale * examples / EXAMPLES, by_chance=True)
    return findings


def _settings(examples: int) -> settings:
    return settings(
        max_examples=max(2, examples),
        stateful_step_count=STEPS,
        database=None,
        deadline=None,  # a step may have to wait until a worker has been started again
        # What is found depends on moments as well, which no replay brings back.
        phases=[Phase.generate],
        # Real processes are slow, and that is no fault of the data.
        suppress_health_check=list(HealthCheck),
    )


ENDED = sorted(state.value for state in TASK_FINAL)
TASK_LATER = reachable(TASK_MOVES)
#: As long as the service lives, nothing is interrupted.
LATER_IN_ONE_LIFE = reachable(
    {state: later - {BatchState.INTERRUPTED} for state, later in BATCH_MOVES.items()}
)
WHICH, AT, DICE = st.integers(0, 100), st.integers(0, 10_000), st.integers(0, 2**32)
VICTIMS = st.sampled_from(("worker", "worker", "Manager", "warden"))
GRACES = st.sampled_from((None, "never", 0, 0.05, 0.3))
STATES = st.sets(st.sampled_from(sorted(state.value for state in RESUMABLE)), min_size=1)
#: A start takes a second or more, so there is one at most in a sequence, and not in each.
IS_RESTARTED = st.sampled_from((True, False))
GRACE_S = 0.3


class Client(RuleBasedStateMachine):
    """A user of the service, and somebody who kills its processes."""

    site: ClassVar[Site]
    lives: ClassVar[Lives]

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, Json] = {}  # each batch as it was last seen
        self._tasks: dict[str, dict[int, Json]] = {}  # by batch and index, likewise
        self._done = self.site.findings.harshness
        self._later = LATER_IN_ONE_LIFE
        self._may_restart = False

    # --- what users do ----------------------------------------------------------------------------

    @initialize(
        numbers=DICE, whom=VICTIMS, number=st.sampled_from(DEADLY), is_restarted=IS_RESTARTED
    )
    def begin(self, numbers: int, whom: str, number: signal.Signals, *, is_restarted: bool) -> None:
        self._may_restart = is_restarted
        self.submit(numbers, "resume")
        self.kill(whom, numbers, number)

    @rule(numbers=DICE, on_interruption=st.sampled_from(("resume", "resume", "stop")))
    def submit(self, numbers: int, on_interruption: str) -> None:
        if len(live := self._live) >= MOST_LIVE:
            self.site.stop(live[0], grace=0)
            self._check(self.site.await_end(live[0]))
        draft = draw(Random(numbers), STRETCH)
        draft.options["on_interruption"] = on_interruption
        batch = self.site.submit(draft, labels={"even": str(numbers % 2)})
        self._seen[batch["id"]] = batch
        self._tasks[batch["id"]] = {}
        self._done["batches"] += 1

    @rule(which=WHICH, grace=GRACES, wait=st.sampled_from((0, 0, 0, LONGEST_WAIT_S, 60)))
    def stop(self, which: int, grace: float | str | None, wait: float) -> None:
        batch = self._pick(which)
        was_active = batch["state"] in ACTIVE
        params = {"wait": wait} | ({} if grace is None else {"grace": grace})
        reply = self.site.stop(batch, **params)
        self._check(reply.json(), self.site.look(batch))
        self._done["stops"] += was_active
        if reply.status_code not in (200, 202) or (reply.status_code == 202 and wait == 60):
            self._break(Broken.HUNG, f"a stop is answered {reply.status_code}: {reply.text}")

    @rule(label=st.sampled_from("01"), wait=st.sampled_from((0, 60)), grace=GRACES)
    def stop_by_label(self, label: str, wait: float, grace: float | str | None) -> None:
        params: Json = {"label": f"even:{label}", "state": "active", "wait": wait}
        params |= {} if grace is None else {"grace": grace}
        for batch in self._live:
            if batch["labels"]["even"] == label:
                self.site.note_stop(batch, grace)
        reply = self.site.client.delete("/batches", params=params)
        for batch in reply.json()["batches"]:
            self._check(batch)
        self._done["stops"] += len(reply.json()["batches"])

    @rule(which=WHICH, at=AT, grace=GRACES, wait=st.sampled_from((0, 60)))
    def stop_one_task(self, which: int, at: int, grace: float | str | None, wait: float) -> None:
        batch = self._pick(which)
        index = at % batch["total"]
        params = {"wait": wait} | ({} if grace is None else {"grace": grace})
        self._check_task(batch, self.site.stop_task(batch, index, **params).json())
        self._done["stops of single tasks"] += 1

    @rule(which=WHICH, states=STATES)
    def resume(self, which: int, states: set[str]) -> None:
        batch = self.site.look(self._pick(which))
        self._check(batch)
        again = any(batch["counts"][state] for state in states)
        is_possible = again and batch["state"] in ("stopped", "failed")
        reply = self.site.resume(batch, states)
        has_ended_meanwhile = batch["state"] in ACTIVE and reply.status_code == 202
        if reply.status_code != (202 if is_possible else 409) and not has_ended_meanwhile:
            self._break(Broken.LOST, f"resume of {states}: {reply.text}, {batch}")
        if has_ended_meanwhile:
            # Nobody has seen how it ended: all that is known is the tasks that are not to run again.
            self._seen[batch["id"]] = batch | {"counts": dict.fromkeys(batch["counts"], 0)}
            batch = self._seen[batch["id"]]
        if is_possible or has_ended_meanwhile:
            self._take_next_run(batch, reply.json(), states)
            self._done["resumes"] += 1

    @precondition(lambda self: len(self._seen) > 1)
    @rule(which=WHICH)
    def purge(self, which: int) -> None:
        batch = self._pick(which)
        reply = self.site.purge(batch)
        if reply.status_code != 200:
            self._break(Broken.HUNG, f"a purge is answered {reply.status_code}: {reply.text}")
        self._check(reply.json())
        del self._seen[batch["id"]], self._tasks[batch["id"]]
        if (found := self.site.client.get(batch["links"]["self"])).status_code != 404:
            self._break(Broken.CHANGED, f"it was purged, and is there: {found.text}")
        self._done["purges"] += 1

    @rule(which=WHICH, wait=st.floats(0, LONGEST_WAIT_S))
    def wait(self, which: int, wait: float) -> None:
        self._check(self.site.look(self._pick(which), wait=wait))

    @rule(which=WHICH, at=AT)
    def read_a_task(self, which: int, at: int) -> None:
        batch = self._pick(which)
        path = f"{batch['links']['tasks']}/{at % batch['total']}"
        self._check_task(batch, self.site.client.get(path).json())

    @rule(which=WHICH)
    def read_all_tasks(self, which: int) -> None:
        batch = self._pick(which)
        page = self.site.client.get(batch["links"]["tasks"], params={"limit": PAGE}).json()
        for task in page["tasks"]:
            self._check_task(batch, task)

    @rule(which=WHICH)
    def read_results(self, which: int) -> None:
        batch = self._pick(which)
        indexes = [line["index"] for line in self.site.results(batch)]
        ended = sum(batch["counts"][state] for state in ENDED if state != "skipped")
        if indexes != sorted(set(indexes)) or len(indexes) < ended:
            self._break(Broken.LOST, f"of {ended} results: {indexes[:20]}")

    # --- what is done to the processes ------------------------------------------------------------

    @rule(whom=VICTIMS, which=WHICH, number=st.sampled_from(DEADLY))
    def kill(self, whom: str, which: int, number: signal.Signals) -> None:
        service, at = self.site.service.pid, monotonic()
        pids = self._pids(whom)
        if whom != "worker":
            number = signal.SIGKILL  # to most others they are deaf
        if not pids or not send(pid := pids[which % len(pids)], number, service):
            return
        if whom == "worker":
            self.site.blows.worker(pid, at)
        elif whom == "warden":
            self.site.blows.warden(at)
        self._done[f"kills of a {whom}"] += 1

    @precondition(lambda self: self._may_restart)
    @rule(end=st.sampled_from(("deploy", "crash")))
    def restart(self, end: str) -> None:
        self._may_restart = False
        for batch in self._seen.values():
            self._check(self.site.look(batch))
        ending = [batch for batch in self._live if _ends_with_the_service(batch)]
        for batch in ending:
            self.site.accounts[batch["id"]].stopped_itself = monotonic()
        self.site.restart(self.lives, end)
        self._later = LATER
        for batch in ending:
            self._check(now := self.site.await_end(batch))
            is_cut = any(now["counts"][state] for state in CUT_SHORT)
            if is_cut and now["state"] != ("failed" if _has_failed_fast(now) else "stopped"):
                self._break(Broken.CHANGED, f"it was to stop: {batch}, {now}")
        for batch in self._seen.values():
            self._check(self.site.look(batch))
        self._later = LATER_IN_ONE_LIFE
        self._done["ends of the service"] += 1

    @rule(which=WHICH, number=st.sampled_from(HARMLESS))
    def annoy_a_worker(self, which: int, number: signal.Signals) -> None:
        pids = self._pids("worker")
        if pids and send(pids[which % len(pids)], number, self.site.service.pid):
            self._done["signals that must not kill"] += 1

    def _pids(self, whom: str) -> list[int]:
        if whom == "worker":
            workers = self.site.client.get("/pool").json()["workers"]
            return [worker["pid"] for worker in workers if worker["pid"]]
        found = {"warden": warden_of, "Manager": manager_of}[whom](self.site.service.pid)
        return [] if found is None else [found]

    # --- what must always hold --------------------------------------------------------------------

    @invariant()
    def every_batch_keeps_the_promises(self) -> None:
        for batch in self._live:
            self._check(self.site.look(batch))

    def teardown(self) -> None:
        """Whatever was done, everything ends, nothing changes afterwards, and the service is well."""
        for batch in self._live:
            self.site.stop(batch, grace=0)
            self._check(self.site.await_end(batch))
        for batch in self._seen.values():
            self._check(self.site.look(batch))
        self.site.await_health()

    @property
    def _live(self) -> list[Json]:
        return [batch for batch in self._seen.values() if batch["state"] in ACTIVE]

    def _pick(self, which: int) -> Json:
        return list(self._seen.values())[which % len(self._seen)]

    def _check(self, *looks: Json) -> None:
        """Compare how a batch looks now with how it looked before."""
        for now in looks:
            before = self._seen[now["id"]]
            now.pop("results", None)  # only some answers hold them
            if sum(now["counts"].values()) != now["total"]:
                self._break(Broken.LOST, f"the counts do not add up: {now}")
            if now["state"] not in self._later[before["state"]]:
                self._break(Broken.DUPLICATED, f"{before['state']} became {now['state']}: {now}")
            if before["state"] not in ACTIVE and now != before:
                self._break(Broken.DUPLICATED, f"it had ended and has changed: {before}, {now}")
            for state in ENDED:
                if now["counts"][state] < before["counts"][state]:
                    self._break(Broken.LOST, f"fewer are {state} than before: {before}, {now}")
            self._seen[now["id"]] = now

    def _take_next_run(self, before: Json, now: Json, states: set[str]) -> None:
        """Tasks in `states` are pending again, the others as they were."""
        again = sum(before["counts"][state] for state in states)
        kept = {state: count for state, count in before["counts"].items() if state not in states}
        seen = {state: now["counts"][state] for state in kept if state in ENDED}
        if now["run"] != before["run"] + 1 or now["stop"] is not None:
            self._break(Broken.CHANGED, f"a resume: {before}, {now}")
        if any(seen[state] < kept[state] for state in seen):
            self._break(Broken.LOST, f"a resume of {again} tasks: {before}, {now}")
        tasks = self._tasks[now["id"]]
        self._tasks[now["id"]] = {i: t for i, t in tasks.items() if t["state"] not in states}
        self._seen[now["id"]] = now

    def _check_task(self, batch: Json, now: Json) -> None:
        """Compare how a task looks now with how it looked before."""
        before = self._tasks[batch["id"]].get(now["index"])
        if before is not None:
            if now["state"] not in TASK_LATER[before["state"]]:
                self._break(Broken.DUPLICATED, f"task {before} became {now}")
            if before["state"] in ENDED and now != before:
                self._break(Broken.DUPLICATED, f"task had ended and has changed: {before}, {now}")
        self._tasks[batch["id"]][now["index"]] = now

    def _break(self, kind: Broken, what: str) -> None:
        self.site.findings.add(kind, what)
        raise AssertionError(what)


def _ends_with_the_service(batch: Json) -> bool:
    """Whether it does not go on after a restart."""
    is_stopping: bool = batch["state"] == "stopping"
    return is_stopping or bool(batch["options"]["on_interruption"] == "stop")


def _has_failed_fast(batch: Json) -> bool:
    """Whether its own failure may have stopped it."""
    return bool(batch["options"]["fail_fast"]) and bool(batch["counts"]["failed"])
