"""What clients were told, and what tasks wrote: each way in which the two may not fit is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.crash_audit import CrashAudit
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import Draft
from tests.chaos.told import Json, Told

P, Q = 11, 12
#: Services: one from 0 on, killed at 20, the next from 21 on.
BIRTHS, DEATHS = [0.0, 21.0], [20.0]
BEGAN, ENDED = f"began 0 {P} 1 10.0", f"ended 0 {P} 1 10.2"
AGAIN = [f"began 0 {Q} 22 30.0", f"ended 0 {Q} 22 30.2"]
SUCCEEDED = {"index": 0, "state": "succeeded", "attempt": 1, "pid": P, "result": 0, "error": None}
SKIPPED = SUCCEEDED | {"state": "skipped", "attempt": 0}
FAILED = SUCCEEDED | {"state": "failed", "result": None, "error": {"type": "ChaosError"}}


def counts(**some: int) -> Json:
    states = ("pending", "running", "succeeded", "failed", "stopped", "skipped", "killed")
    return dict.fromkeys(states, 0) | some


def batch(state: str = "running", run: int = 1, **some: int) -> Json:
    never = {"id": "b", "task": "act", "name": "n", "labels": {}, "options": {}, "created_at": "t"}
    return never | {"total": 1, "state": state, "run": run, "counts": counts(**some)}


QUEUED, RUNNING, ENDED_WELL = (
    batch("queued", pending=1),
    batch("running", running=1),
    batch("succeeded", succeeded=1),
)
STOPPED = batch("stopped", stopped=1)


def told_of(folder: Path, lines: list[str] | None = None, kind: str = "look") -> Told:
    """A batch of one task that has written `lines`."""
    log = folder / "log"
    log.write_text("".join(f"{line}\n" for line in lines or []))
    draft = Draft("act", [kind], [0.0])
    return Told("n", log, draft, {"options": {}}, None, Findings("told"), batch=dict(RUNNING))


def write(told: Told, *lines: str) -> None:
    with told.log.open("a") as log:
        log.writelines(f"{line}\n" for line in lines)


def judged(told: Told, *tasks: Json) -> Findings:
    """What the audit finds."""
    findings = Findings("audit")
    audit = CrashAudit(findings, BIRTHS, DEATHS)
    audit.judge(told, {task["index"]: task for task in tasks})
    audit.judge_lives()
    findings.take_in(told.findings)
    return findings


# --- what fits ------------------------------------------------------------------------------------


def test_a_task_that_goes_on_after_a_death_is_not_blamed(tmp_path: Path) -> None:
    """Or every run would be red."""
    told = told_of(tmp_path, [BEGAN, *AGAIN])
    again = SUCCEEDED | {"attempt": 2, "pid": Q}

    assert judged(told, again).is_clean
    assert judged(
        told_of(tmp_path, [f"began 0 {P} 1 19.9", *AGAIN]), again | {"attempt": 1}
    ).is_clean


def test_what_a_resume_was_asked_for_runs_again(tmp_path: Path) -> None:
    """Whether or not its client had an answer."""
    told = told_of(tmp_path, [BEGAN, f"saw 0 {P} 1 10.1", ENDED])
    told.is_stop_asked = True
    told.hear(dict(STOPPED))
    told.hear_task(SUCCEEDED | {"state": "stopped"})
    told.hear_resume(["stopped"])
    write(told, *AGAIN)
    told.hear(batch("succeeded", run=2, succeeded=1))

    assert judged(told, SUCCEEDED | {"attempt": 2, "pid": Q}).counts.total() == 0


# --- what was told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (ENDED_WELL, RUNNING, Broken.CHANGED),
        (ENDED_WELL, ENDED_WELL | {"finished_at": "later"}, Broken.CHANGED),
        (batch("stopping", running=1), RUNNING, Broken.CHANGED),
        (batch("stopping", running=1), batch("interrupted", pending=1), Broken.CHANGED),
        (RUNNING, RUNNING | {"options": {"priority": 1}}, Broken.CHANGED),
        (RUNNING, RUNNING | {"counts": counts(running=2)}, Broken.LOST),
        (RUNNING, RUNNING | {"total": 2, "counts": counts(running=2)}, Broken.LOST),
        (batch("running", succeeded=1), RUNNING, Broken.LOST),
        (STOPPED, batch("queued", run=2, pending=1), Broken.DUPLICATED),
    ],
)
def test_a_batch_that_is_told_otherwise_is_found(
    tmp_path: Path, before: Json, after: Json, kind: Broken
) -> None:
    """In the same run, what was told stays true."""
    told = told_of(tmp_path)
    told.hear(dict(before))
    told.hear(dict(after))

    assert told.findings.counts[kind]


def test_a_batch_that_is_gone_or_back_is_found(tmp_path: Path) -> None:
    """Accepted is accepted, purged is purged, and one POST is one batch."""
    lost, back, twice = told_of(tmp_path), told_of(tmp_path), told_of(tmp_path)
    lost.hear_list([])
    back.may_be_gone = True
    back.hear_list([])
    back.hear_list([dict(RUNNING)])
    twice.hear_list([dict(RUNNING), dict(RUNNING)])

    assert lost.findings.counts[Broken.LOST]
    assert back.findings.counts == {Broken.CHANGED: 1}
    assert twice.findings.counts[Broken.DUPLICATED]


@pytest.mark.parametrize("later", [{"result": 7}, {"state": "failed"}, {"attempt": 2}])
def test_a_task_that_is_told_otherwise_is_found(tmp_path: Path, later: dict[str, Any]) -> None:
    """A result that was read once is the result."""
    told = told_of(tmp_path)
    told.hear_task(SUCCEEDED)
    told.hear_task(SUCCEEDED | later)

    assert told.findings.counts[Broken.CHANGED]


def test_a_resume_leaves_the_other_tasks_as_they_were(tmp_path: Path) -> None:
    """What was not asked for must not be lost, nor run again."""
    told = told_of(tmp_path)
    told.hear(batch("failed", failed=1))
    told.hear_task(FAILED)
    told.hear_resume(["stopped"])
    told.hear(batch("queued", run=2, pending=1))
    write(told, BEGAN)

    assert told.findings.counts[Broken.LOST]
    assert judged(told).counts[Broken.DUPLICATED]


# --- what was written -----------------------------------------------------------------------------


def test_a_line_after_a_batch_was_told_to_have_ended_is_found(tmp_path: Path) -> None:
    """Nothing runs after the answer, whichever service gave it."""
    told = told_of(tmp_path, [BEGAN])
    told.hear(dict(STOPPED))
    write(told, f"work 0 {P} 1 12.0")

    assert judged(told).counts[Broken.RAN_AFTER_STOP]


def test_a_begin_after_a_stop_was_answered_is_found(tmp_path: Path) -> None:
    """Of the batch, or of one task alone; also if it was answered 202, and then came a crash."""
    of_batch, of_task = told_of(tmp_path), told_of(tmp_path)
    late = f"began 0 {Q} 22 1e12"
    of_batch.hear(batch("stopping", pending=1))
    write(of_batch, late)
    found = judged(of_batch)
    of_task = told_of(tmp_path)
    of_task.hear_task_stop(0, 202)
    write(of_task, late)

    assert found.counts[Broken.RAN_AFTER_STOP]
    assert judged(of_task).counts[Broken.RAN_AFTER_STOP]


def test_a_task_that_runs_again_after_its_end_was_told_is_found(tmp_path: Path) -> None:
    """Its client has the result: whatever the second one does is done twice."""
    told = told_of(tmp_path, [BEGAN, ENDED])
    told.hear_task(SUCCEEDED)
    write(told, *AGAIN)

    assert judged(told, SUCCEEDED | {"attempt": 2, "pid": Q}).counts[Broken.DUPLICATED]


@pytest.mark.parametrize(
    ("lines", "task", "kind"),
    [
        ([BEGAN, ENDED, *AGAIN], SUCCEEDED, Broken.DUPLICATED),
        ([BEGAN, *AGAIN], SUCCEEDED | {"pid": Q}, Broken.LOST),
        ([BEGAN, ENDED], SUCCEEDED | {"state": "running"}, Broken.LOST),
        ([BEGAN, ENDED], SUCCEEDED | {"result": 7}, Broken.LOST),
        ([BEGAN], SUCCEEDED, Broken.WRONGLY_BLAMED),
        ([BEGAN, ENDED], SUCCEEDED | {"attempt": 3}, Broken.WRONGLY_BLAMED),
        ([BEGAN, ENDED], SUCCEEDED | {"state": "stopped"}, Broken.WRONGLY_BLAMED),
        ([BEGAN, ENDED], FAILED, Broken.WRONGLY_BLAMED),
        ([f"began 0 {Q} 22 30.0"], SKIPPED, Broken.WRONGLY_BLAMED),
    ],
    ids=[
        "ran again",
        "a begin that is not told",
        "running for ever",
        "another result",
        "did not end",
        "attempts that were none",
        "stopped by nobody",
        "an error that was none",
        "skipped, and yet it ran",
    ],
)
def test_a_task_of_which_is_told_what_it_did_not_do_is_found(
    tmp_path: Path, lines: list[str], task: Json, kind: Broken
) -> None:
    """The tasks' own lines are what happened."""
    assert judged(told_of(tmp_path, lines), task).counts[kind]


def test_what_ran_and_nobody_has_accepted_is_found(tmp_path: Path) -> None:
    """A client without an answer may send it again."""
    told = told_of(tmp_path, [BEGAN])
    told.batch = None

    assert judged(told).counts[Broken.LOST]


def test_two_generations_at_a_time_are_found(tmp_path: Path) -> None:
    """In one task, which is then done twice; and in two, which may want the same file."""
    one = [BEGAN, AGAIN[0], f"work 0 {P} 1 30.1"]
    two = [BEGAN, f"began 1 {Q} 22 30.0", f"ended 0 {P} 1 30.1"]

    assert judged(told_of(tmp_path, one)).counts == {Broken.DUPLICATED: 2}
    assert judged(told_of(tmp_path, two)).counts == {Broken.DUPLICATED: 1}
