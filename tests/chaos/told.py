"""What a client was told of one batch: whatever it is told later, of whichever service, has to agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from app.lifecycle import BATCH_MOVES, FINAL, TASK_FINAL, BatchState
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import Draft
from tests.chaos.reachable import reachable

Json = dict[str, Any]

ENDED = frozenset(state.value for state in FINAL)
TASK_ENDED = frozenset(state.value for state in TASK_FINAL)
#: What may be seen at a later look of the same run; one that is stopping never goes on.
LATER = reachable(BATCH_MOVES) | {
    BatchState.STOPPING: {BatchState.STOPPING, *BATCH_MOVES[BatchState.STOPPING]} & {
        BatchState.STOPPING, *FINAL
    }
}  # fmt: skip
NEVER_CHANGES = ("id", "task", "name", "labels", "total", "options", "created_at")
#: From the answer to a stop until the last worker that had a task in hand has heard of it.
HEARING_S = 0.3


@dataclass
class Silence:
    """A stretch of the log, in bytes, in which nothing of the batch may write, or nothing begin.

    index  of the one task that it holds for; None: for all
    state  that task's, as far as it was told
    after  on the monotonic clock: what is written before is still let by
    """

    why: str
    since: int
    index: int | None = None
    state: str | None = None
    begins_only: bool = False
    after: float = -inf
    until: float = inf

    def ends_with(self, states: Collection[str]) -> bool:
        """Whether a resume of tasks in these states ends it."""
        return self.index is None or self.state is None or self.state in states


@dataclass
class Resume:
    """A resume that may have been heard of: which tasks, and how long the log was before it."""

    states: Collection[str]
    size: int


@dataclass
class Told:
    """One batch. Belongs to the thread of the client that has sent it.

    batch       as it was seen last; None as long as nobody has said that it was accepted
    first       the answer to its POST
    ends        by index, what was told of tasks that had ended and have not been resumed
    may_be_gone, is_gone  somebody asked for its purge; nobody is to find it any more
    """

    name: str
    log: Path
    draft: Draft
    body: Json
    key: str | None
    findings: Findings
    batch: Json | None = None
    first: bytes | None = None
    ends: dict[int, Json] = field(default_factory=dict)
    is_stop_asked: bool = False
    stopped_tasks: set[int] = field(default_factory=set)
    silences: list[Silence] = field(default_factory=list)
    resume_sizes: list[int] = field(default_factory=list)  # of the log, at each that was heard of
    may_be_gone: bool = False
    is_gone: bool = False
    _resume: Resume | None = None

    @property
    def is_live(self) -> bool:
        """Whether it was there and had not ended when it was seen last."""
        return self.batch is not None and not self.is_gone and self.batch["state"] not in ENDED

    @property
    def is_unsure(self) -> bool:
        """Whether a resume was asked for, and nobody has told yet what became of it."""
        return self._resume is not None

    @property
    def size(self) -> int:
        """Of its log, in bytes."""
        return self.log.stat().st_size

    # --- the batch --------------------------------------------------------------------------------

    def hear(self, *looks: Json) -> None:
        """It was told how the batch is."""
        for now in looks:
            now.pop("results", None)  # only some answers hold them
            self._compare(now)
            self.batch = now
            self._expect_silence(now["state"])

    def hear_list(self, found: Sequence[Json]) -> None:
        """It was told which batches there are of this name."""
        if len(found) > 1:
            self._add(Broken.DUPLICATED, f"it was accepted {len(found)} times")
        elif found and self.is_gone:
            self._add(Broken.CHANGED, f"it was purged, and is back: {found[0]['state']}")
        elif found:
            self.hear(found[0])
        elif self.batch is not None and not self.is_gone:
            self.hear_gone()

    def hear_gone(self) -> None:
        """It was told that there is no such batch."""
        if not self.may_be_gone:
            self._add(Broken.LOST, f"it was accepted, and is not there: {self.batch}")
        self.is_gone = True

    def hear_resume(self, states: Collection[str]) -> None:
        """A resume is about to be asked for; whether it was heard of is told by the run."""
        self._resume = Resume(states, self.size)

    def _compare(self, now: Json) -> None:
        if sum(now["counts"].values()) != now["total"] or now["total"] != len(self.draft.kinds):
            self._add(Broken.LOST, f"the counts do not add up: {now}")
        before = self.batch
        if before is None:
            return
        changed = [name for name in NEVER_CHANGES if now[name] != before[name]]
        if changed:
            self._add(Broken.CHANGED, f"{changed}: {before}, {now}")
        if now["run"] != before["run"]:
            self._take_resume(before, now)
            return
        self._resume = None
        if now["state"] not in LATER[BatchState(before["state"])]:
            self._add(Broken.CHANGED, f"{before['state']} became {now['state']}: {now}")
        elif before["state"] in ENDED and now != before:
            self._add(Broken.CHANGED, f"it had ended and has changed: {_changes(before, now)}")
        else:
            self._expect_no_fewer(before, now, ())

    def _take_resume(self, before: Json, now: Json) -> None:
        """The batch is in its next run: what was not resumed stays as it was."""
        resume, self._resume = self._resume, None
        if resume is None or now["run"] != before["run"] + 1:
            self._add(Broken.DUPLICATED, f"run {before['run']} became {now['run']}: {now}")
            return
        self.resume_sizes.append(resume.size)
        self._expect_no_fewer(before, now, resume.states)
        self.ends = {i: end for i, end in self.ends.items() if end["state"] not in resume.states}
        for silence in self.silences:
            if silence.until == inf and silence.ends_with(resume.states):
                silence.until = resume.size

    def _expect_no_fewer(self, before: Json, now: Json, but: Collection[str]) -> None:
        for state in TASK_ENDED - set(but):
            if now["counts"][state] < before["counts"][state]:
                self._add(Broken.LOST, f"fewer are {state} than before: {before}, {now}")

    def _expect_silence(self, state: str) -> None:
        why = f"the batch was told to be {state}"
        if any(silence.why == why and silence.until == inf for silence in self.silences):
            return
        if state in ENDED:
            self.silences.append(Silence(why, self.size))
        elif state == BatchState.STOPPING:
            after = monotonic() + HEARING_S
            self.silences.append(Silence(why, self.size, begins_only=True, after=after))

    # --- its tasks --------------------------------------------------------------------------------

    def hear_task(self, now: Mapping[str, Any]) -> None:
        """It was told how a task is: by a page of tasks, or by a line of results."""
        index, before = now["index"], self.ends.get(now["index"])
        if before is not None:
            changed = {n: (before[n], now[n]) for n in before.keys() & now if before[n] != now[n]}
            if changed:
                self._add(Broken.CHANGED, f"task {index} had ended and has changed: {changed}")
            else:
                self.findings.harshness["outcomes compared"] += 1
        elif now["state"] in TASK_ENDED:
            why = f"the task was told to be {now['state']}"
            self.silences.append(Silence(why, self.size, index, now["state"], begins_only=True))
        if now["state"] in TASK_ENDED:
            stop = now.get("stop")
            is_over = (
                stop is None or stop["settled_at"] is not None
            )  # else its grace may get shorter
            last = now if is_over else {name: now[name] for name in now if name != "stop"}
            self.ends[index] = {**(before or {}), **last}

    def hear_task_stop(self, index: int, status: int) -> None:
        """It was told that one task is being stopped, or has been: from now on it does not begin."""
        why, after = f"a stop of the task was answered {status}", monotonic() + HEARING_S
        self.silences.append(
            Silence(why, self.size, index, state=None, begins_only=True, after=after)
        )

    def _add(self, kind: Broken, what: str) -> None:
        self.findings.add(kind, f"{self.name}: {what}")


def _changes(before: Json, now: Json) -> str:
    names = [name for name in now if before.get(name) != now[name]]
    return str({name: (before.get(name), now[name]) for name in names})
