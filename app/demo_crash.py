"""The second half of the demonstration: `kill -9` in the middle of a batch, then a stop and a resume."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from rich.table import Table

from app.demo_claims import Claims
from app.demo_service import WAIT_S, WORKERS, DemoService, Json

LEG_S = 0.2
#: The first ones are over before the crash, the second ones are cut off by it, the third ones wait.
SHORT, LONG = 2, 16
LEGS = [SHORT] * WORKERS + [LONG] * WORKERS + [SHORT] * WORKERS
CUT_OFF = range(WORKERS, 2 * WORKERS)
#: The crash and the stop come when each of the long ones has run so many legs more.
LEGS_BETWEEN = 4
KEY = "demonstration-1"
#: Where the batch is in its two runs.
STATES = [
    ["queued", "running", "interrupted", "queued", "running", "stopping", "stopped"],
    ["queued", "running", "succeeded"],
]


class Seen(NamedTuple):
    """What the service had said of a batch when it was killed."""

    ended: list[str]  # its results, as they were sent
    saved: dict[int, list[Json]]  # the savepoints of the tasks that ran, by index
    processes: set[int]  # of the service


def show_a_crash(service: DemoService, claims: Claims) -> None:
    """Kill the service in the middle of a batch, which then goes on; stop it, and resume it."""
    body = {"task": "relay", "items": [{"legs": legs, "seconds": LEG_S} for legs in LEGS]}
    batch = service.post(body, **{"Idempotency-Key": KEY})
    claims.console.print(
        f"\nPOST /batches: {len(LEGS)} relays, which save each leg that they have run; in the midst "
        "of it ..."
    )
    seen = _look_before(service, claims, batch)
    pid = service.kill()
    claims.console.print(
        f"\nkill -9 {pid}: the service; it is started again on the same data folder"
    )
    service.start()
    _check_restart(service, claims, batch, seen)
    again = service.post(body, **{"Idempotency-Key": KEY})
    claims.check(
        again == batch,
        "the POST, sent again with its Idempotency-Key: the same answer, and nothing runs twice",
    )
    stopped = _stop_and_resume(service, claims, batch)
    ended = service.get(batch["links"]["self"], wait=WAIT_S)
    _print_relays(claims, ended["results"], seen, stopped)
    _check_end(service, claims, ended, seen)


def _look_before(service: DemoService, claims: Claims, batch: Json) -> Seen:
    _await_legs(service, batch, LEGS_BETWEEN)
    counts = service.get(batch["links"]["self"])["counts"]
    claims.check(
        (counts["succeeded"], counts["running"], counts["pending"]) == (WORKERS,) * 3,
        f"{counts['succeeded']} have ended, {counts['running']} run, {counts['pending']} wait",
    )
    saved = {index: _saved(service, batch, index) for index in CUT_OFF}
    return Seen(_results(service, batch), saved, {*service.processes()})


def _check_restart(service: DemoService, claims: Claims, batch: Json, seen: Seen) -> None:
    """What was told before the crash is true after it; what was cut off goes on."""
    _await_running(service, batch, 1)
    left = seen.processes & {*service.processes()}
    claims.check(
        not left,
        f"when tasks ran again, none of the {len(seen.processes)} processes from before was left",
    )
    claims.check(
        _results(service, batch)[:WORKERS] == seen.ended,
        f"the {len(seen.ended)} results from before are the same, to the byte",
    )
    _await_running(service, batch, len(CUT_OFF))
    tasks = [service.get(f"{batch['links']['tasks']}/{index}") for index in CUT_OFF]
    went_on = [
        task["savepoint"][: len(seen.saved[task["index"]])] == seen.saved[task["index"]]
        for task in tasks
    ]
    claims.check(
        all(went_on) and all(task["attempt"] == 2 for task in tasks),
        f"the {len(tasks)} that ran go on from their savepoints, as attempt 2",
    )


def _stop_and_resume(service: DemoService, claims: Claims, batch: Json) -> dict[int, list[Json]]:
    """What the tasks had saved at the stop."""
    link = batch["links"]["self"]
    before = max(len(_saved(service, batch, index)) for index in CUT_OFF)
    _await_legs(service, batch, before + LEGS_BETWEEN)
    claims.console.print(f"\nDELETE {link}, then POST {link}/resume")
    receipt = service.http.delete(link, params={"wait": WAIT_S}).raise_for_status().json()
    counts = receipt["counts"]
    claims.check(
        (receipt["state"], counts["stopped"], counts["skipped"]) == ("stopped", WORKERS, WORKERS),
        f"{counts['stopped']} stopped, {counts['skipped']} never started, "
        f"{counts['succeeded']} had ended before",
    )
    stopped = {index: _saved(service, batch, index) for index in CUT_OFF}
    reply = service.http.post(f"{link}/resume")
    resumed = reply.raise_for_status().json()
    claims.check(
        (reply.status_code, resumed["id"], resumed["run"]) == (202, batch["id"], 2),
        f"resumed: the same batch, run {resumed['run']}",
    )
    entries = service.get(batch["links"]["history"])["entries"]
    claims.check(
        [entry["receipt"] for entry in entries if "receipt" in entry] == [receipt["stop"]],
        "the receipt of the stop is kept in its history",
    )
    return stopped


def _print_relays(
    claims: Claims, results: list[Json], seen: Seen, stopped: dict[int, list[Json]]
) -> None:
    table = Table(title="The relays: which legs were run when", title_justify="left")
    for name in ("task", "attempts", "before kill -9", "until the DELETE", "after the resume"):
        table.add_column(name, justify="right" if name == "task" else "left")
    for line in results:
        legs, index = line["result"], line["index"]
        old = sum(leg["pid"] in seen.processes for leg in legs)
        until = max(old, len(stopped.get(index, [])))
        parts = (legs[:old], legs[old:until], legs[until:])
        table.add_row(str(index), str(line["attempt"]), *map(_range, parts))
    claims.console.print(table)


def _check_end(service: DemoService, claims: Claims, ended: Json, seen: Seen) -> None:
    results = [json.loads(line) for line in _results(service, ended)]
    claims.check(
        ended["state"] == "succeeded"
        and [line["index"] for line in results] == [*range(len(LEGS))],
        f"{ended['counts']['succeeded']} tasks succeeded, each with one result",
    )
    legs = [[leg["leg"] for leg in line["result"]] for line in results]
    claims.check(
        legs == [[*range(1, count + 1)] for count in LEGS], "every leg is there, each of them once"
    )
    kept = [results[at]["result"][: len(saved)] == saved for at, saved in seen.saved.items()]
    claims.check(all(kept), "no leg that was saved before the kill -9 was run again")
    entries = service.get(ended["links"]["history"])["entries"]
    for run, expected in enumerate(STATES, start=1):
        states = [entry["state"] for entry in entries if entry["run"] == run]
        claims.check(states == expected, f"run {run} was {', '.join(states)}")


def _await_running(service: DemoService, batch: Json, tasks: int) -> None:
    service.eventually(
        lambda: service.get(batch["links"]["self"])["counts"]["running"],
        lambda running: running >= tasks,
        f"fewer than {tasks} of its tasks run again",
    )


def _await_legs(service: DemoService, batch: Json, legs: int) -> None:
    """Until each of the long ones has saved so many."""
    service.eventually(
        lambda: [len(_saved(service, batch, index)) for index in CUT_OFF],
        lambda saved: min(saved) >= legs,
        "the relays do not get on",
    )


def _saved(service: DemoService, batch: Json, index: int) -> list[Json]:
    """The savepoint of a task, as far as it has one."""
    saved: list[Json] = service.get(f"{batch['links']['tasks']}/{index}").get("savepoint", [])
    return saved


def _results(service: DemoService, batch: Json) -> list[str]:
    return service.http.get(batch["links"]["results"]).raise_for_status().text.splitlines()


def _range(legs: Iterable[Json]) -> str:
    numbers = [leg["leg"] for leg in legs]
    return f"{numbers[0]}-{numbers[-1]}" if numbers else ""
