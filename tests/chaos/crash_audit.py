"""Judges batches that have outlived services: what their tasks wrote, against what was told of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import inf

from tests.chaos.accounts import HEARING_S, KNOWN_S, SLACK_S
from tests.chaos.findings import Broken, Findings
from tests.chaos.logbook import Line, read_lines
from tests.chaos.task_audit import FATAL
from tests.chaos.tasks import LARGE, ChaosError
from tests.chaos.told import TASK_ENDED, Json, Told

ERRORS = {"fail": ChaosError.__name__, "stumble": "StumbleError"} | dict.fromkeys(
    FATAL, "WorkerLost"
)
WORKS = frozenset({"began", "work", "saw", "ended", "shielded", "sealed"})


class CrashAudit:
    """Takes in all batches of one data folder, and reports what does not fit together."""

    def __init__(
        self, findings: Findings, births: Sequence[float], deaths: Sequence[float]
    ) -> None:
        """births, deaths: of the services, on the monotonic clock."""
        self._findings, self._births, self._deaths = findings, births, deaths
        self._last_line = [-inf] * len(births)  # by the service whose worker wrote it
        self._first_begin = [inf] * len(births)

    def judge(self, told: Told, tasks: Mapping[int, Json]) -> None:
        """Judge one batch; `tasks` as they are told to be in the end, none if it was purged."""
        lines = list(read_lines(told.log))
        self._findings.tasks += len(told.draft.kinds)
        if told.batch is None and lines:
            self._add(Broken.LOST, told, "it ran, and nobody has accepted it")
        of_task: defaultdict[int, list[Line]] = defaultdict(list)
        for line in lines:
            of_task[line.index].append(line)
            self._note_life(line)
        self._judge_silences(told, of_task)
        for index, its in of_task.items():
            self._judge_overlap(told, index, its)
        for index, task in tasks.items():
            self._judge_task(told, task, of_task[index])

    def judge_lives(self) -> None:
        """No task has begun while one of the service before still ran."""
        last = -inf
        for number, (end, begin) in enumerate(
            zip(self._last_line, self._first_begin, strict=True), start=1
        ):
            if begin < last - SLACK_S:
                self._findings.add(
                    Broken.DUPLICATED,
                    f"a task of service {number} began {last - begin:.3f} s before the last one"
                    " of those before it was over",
                )
            last = max(last, end)

    # --- one batch --------------------------------------------------------------------------------

    def _note_life(self, line: Line) -> None:
        """Which service it was whose worker wrote the line; a program that a task runs cannot say."""
        number = sum(birth <= line.born for birth in self._births) - 1
        if number < 0:
            return
        self._last_line[number] = max(self._last_line[number], line.at)
        if line.word == "began":
            self._first_begin[number] = min(self._first_begin[number], line.at)

    def _judge_silences(self, told: Told, of_task: Mapping[int, Sequence[Line]]) -> None:
        for silence in told.silences:
            its = of_task.values() if silence.index is None else [of_task.get(silence.index, [])]
            late = [
                line
                for lines in its
                for line in lines
                if silence.since <= line.offset < silence.until
                and (line.word == "began" or not silence.begins_only)
                and (line.at >= silence.after or not silence.begins_only)
            ]
            if late:
                self._add(
                    Broken.DUPLICATED if silence.state else Broken.RAN_AFTER_STOP,
                    told,
                    f"{silence.why}, then came {len(late)} lines, the first {late[0]}"
                    f" ({told.draft.kinds[late[0].index]}), {silence}",
                )

    def _judge_overlap(self, told: Told, index: int, lines: Sequence[Line]) -> None:
        """No attempt begins while another one still runs."""
        present, gone = (0, 0.0), set[tuple[int, float]]()
        for line in lines:
            writer = (line.pid, line.born)
            if line.word == "began" and writer != present:
                gone, present = (gone | {present}) - {writer}, writer
            elif line.word in WORKS and writer in gone:
                self._add(Broken.DUPLICATED, told, f"task {index}: {line} while {present} is in it")
                return

    # --- one task ---------------------------------------------------------------------------------

    def _judge_task(self, told: Told, task: Json, lines: Sequence[Line]) -> None:
        state, kind = task["state"], told.draft.kinds[task["index"]]
        words = Counter((line.word, line.pid) for line in lines)
        if state not in TASK_ENDED:
            self._add(Broken.LOST, told, f"it is {state} for ever: {task}")
        if state in ("stopped", "killed", "skipped") and not _may_be_cut(told, task["index"]):
            self._blame(told, task, lines, "nobody has stopped it")
        if state == "skipped":
            self._judge_skipped(told, task, lines)
            return
        self._judge_attempts(told, task, lines)
        if state == "succeeded":
            self._judge_result(told, task, lines, kind)
        if state == "failed":
            self._judge_error(told, task, lines, kind)
        if state in ("succeeded", "stopped") and not _is_unborn(kind, lines, task["pid"]):
            self._judge_end(told, task, lines, words)

    def _judge_end(
        self, told: Told, task: Json, lines: Sequence[Line], words: Counter[tuple[str, int]]
    ) -> None:
        """It has run to its end, and what is told is its last attempt."""
        if not words["ended", task["pid"]]:
            self._blame(told, task, lines, "it is said to have ended by itself, and did not")
        last = [line.pid for line in lines if line.word == "began"][-1:]
        if last != [task["pid"]]:
            self._add(Broken.DUPLICATED, told, f"it was in {last} last: {task}, {lines[-6:]}")

    def _judge_attempts(self, told: Told, task: Json, lines: Sequence[Line]) -> None:
        """Every begin is told, but for those that a death has kept from being known."""
        begins = [line.at for line in lines if line.word == "began"]
        known = [at for at in begins if not self._died_after(at)]
        # With a time limit, a worker may be killed before it has written a word.
        is_hasty = told.draft.options.get("timeout_s") is not None or told.draft.task == "flow"
        if task["attempt"] < len(known):
            self._add(
                Broken.LOST,
                told,
                f"task {task['index']} began {len(begins)} times, {len(known)} of which must be"
                f" known: {task}; services died at {self._deaths}, it began at {begins}",
            )
        if task["attempt"] > len(begins) + 1 and not is_hasty:
            self._blame(told, task, lines, f"it began {len(begins)} times")

    def _died_after(self, at: float) -> bool:
        """Whether a service died so soon after that moment that nobody need know of it."""
        return any(death - KNOWN_S <= at <= death + HEARING_S for death in self._deaths)

    def _judge_skipped(self, told: Told, task: Json, lines: Sequence[Line]) -> None:
        """In its last run it has not begun, unless a service died in which it had."""
        since = max(told.resume_sizes, default=0)
        for line in lines:
            is_recent = line.word == "began" and line.offset >= since
            if is_recent and not any(death >= line.at for death in self._deaths):
                self._blame(told, task, lines, "it is said to have been skipped")
                return

    def _judge_result(self, told: Told, task: Json, lines: Sequence[Line], kind: str) -> None:
        index = task["index"]
        result = str(index % 10) * LARGE if kind == "large" else index
        if task["result"] != result:
            self._add(Broken.LOST, told, f"the result of {kind}: {str(task)[:300]}")
        if kind in FATAL or kind == "fail":
            self._blame(told, task, lines, f"{kind} cannot succeed")

    def _judge_error(self, told: Told, task: Json, lines: Sequence[Line], kind: str) -> None:
        error, limit_s = task["error"]["type"], told.draft.options.get("timeout_s")
        if error != ERRORS.get(kind) and (error != "TimeLimitExceeded" or limit_s is None):
            self._blame(told, task, lines, f"{kind} is said to have failed")

    def _blame(self, told: Told, task: Json, lines: Sequence[Line], what: str) -> None:
        shown = [f"{line.word}@{line.pid} {line.at:.3f}" for line in [*lines[:4], *lines[4:][-3:]]]
        self._add(Broken.WRONGLY_BLAMED, told, f"{what}: {str(task)[:600]}; it wrote {shown}")

    def _add(self, kind: Broken, told: Told, what: str) -> None:
        self._findings.add(kind, f"{told.name} ({told.body['options']}): {what}")


def _may_be_cut(told: Told, index: int) -> bool:
    """Whether somebody may have wanted the task not to do all its work."""
    options = told.body["options"]
    return (
        told.is_stop_asked
        or index in told.stopped_tasks
        or options.get("on_interruption") == "stop"
        or bool(options.get("fail_fast"))
    )


def _is_unborn(kind: str, lines: Sequence[Line], pid: int) -> bool:
    """A coroutine may be cancelled that has not taken its first step, and never will."""
    return kind == "flow" and not any(line.pid == pid for line in lines)
