"""Judges one task: what it wrote, against what is said of its attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf

from tests.chaos.accounts import SLACK_S, Account, Blows, Claim
from tests.chaos.findings import Broken, Findings
from tests.chaos.logbook import Line
from tests.chaos.tasks import LARGE, ChaosError
from workers.backend import Ending

#: These leave by Stopped.
STOPPING = frozenset({"leave", "block", "run", "flow"})
#: These end their worker, whatever they were about to write.
FATAL = frozenset({"die", "vanish"})
BY_ITSELF = frozenset({Ending.RETURNED, Ending.RAISED, Ending.STOPPED})


class TaskAudit:
    """The audit of one task of one batch."""

    def __init__(
        self,
        account: Account,
        index: int,
        lines: Sequence[Line],
        blows: Blows,
        findings: Findings,
    ) -> None:
        self._account, self._index, self._kind = account, index, account.kinds[index]
        self._blows, self._findings = blows, findings
        self._claims = account.claims.get(index, [])
        self._lines = lines
        self._began, self._ended, self._saw = (
            Counter(line.pid for line in lines if line.word == word)
            for word in ("began", "ended", "saw")
        )

    def judge(self) -> None:
        """Report everything that does not fit together."""
        if self._account.finals[self._index]:
            self._judge_attempts()
        else:
            self._judge_silence()
        for claim in self._claims:
            self._judge_claim(claim)
        if not self._is_stopped:
            self._judge_calm()

    def _judge_calm(self) -> None:
        """Nobody stopped it: only when its time is up may it, or a child of it, be told to end."""
        limit_s = self._account.timeout_s
        due = inf
        if limit_s is not None:
            due = min((claim.began for claim in self._claims), default=inf) + limit_s - SLACK_S
        for line in self._lines:
            is_stop = line.word in ("saw", "heard") and line.at < due
            if is_stop and not self._blows.told_to_leave(line.at):
                self._blame(f"it saw a stop that nobody asked for: {line}")

    def _judge_silence(self) -> None:
        """Nobody said that it has ended: then it must not have begun, because of a stop."""
        since = max(self._account.resumed, default=-inf)
        begins = [line.at for line in self._lines if line.word == "began" and line.at >= since]
        # What the end of a service cut off was pending again, until the stop came.
        if self._claims or any(not self._blows.count_ends(at) for at in begins):
            self._add(Broken.LOST, "it ran, and nobody says what became of it")
        elif not self._is_stopped and self._account.size_at_end is not None:
            self._add(Broken.LOST, "nobody says what became of it, and nobody stopped it")

    @property
    def _is_stopped(self) -> bool:
        return self._account.is_stopped or self._index in self._account.task_stops

    def _judge_attempts(self) -> None:
        final = self._claims[-1]
        if self._account.finals[self._index] > 1:
            self._add(Broken.DUPLICATED, "it ended more than once")
        if final.attempt > self._most_attempts:
            self._add(Broken.DUPLICATED, f"{final.attempt} attempts")
        if not self._account.tells_every_attempt:
            begins = [line.at for line in self._lines if line.word == "began"]
            if sum(not self._blows.may_hide(at) for at in begins) > final.attempt:
                self._add(Broken.DUPLICATED, f"it began {self._began.total()} times")
            return
        numbers = [claim.attempt for claim in self._claims if claim.ending is not Ending.SKIPPED]
        if numbers != list(range(1, len(numbers) + 1)):
            self._add(Broken.DUPLICATED, f"its attempts are {numbers}")
        told = Counter(claim.pid for claim in self._claims)
        for pid, times in self._began.items():
            if times > told[pid]:
                self._add(
                    Broken.DUPLICATED,
                    f"it began {times} times in worker {pid}, {told[pid]} are told",
                )

    @property
    def _most_attempts(self) -> int:
        """Those that are cut off do not count, and with each run it is counted anew."""
        first = min((line.at for line in self._lines), default=inf)
        runs = 1 + len(self._account.resumed)
        return self._account.max_attempts * runs + self._blows.count_ends(first)

    def _judge_claim(self, claim: Claim) -> None:
        judge: dict[Ending, Callable[[Claim], None]] = {
            Ending.RETURNED: self._judge_result,
            Ending.RAISED: self._judge_error,
            Ending.STOPPED: self._judge_stopped,
            Ending.TIMED_OUT: self._judge_time_limit,
            Ending.LOST: self._judge_loss,
            Ending.KILLED: self._judge_kill,
            Ending.SKIPPED: self._judge_skipped,
        }
        judge[claim.ending](claim)
        if claim.ending in BY_ITSELF and not self._is_unborn(claim):
            by_itself = sum(
                other.pid == claim.pid and other.ending in BY_ITSELF for other in self._claims
            )
            if self._ended[claim.pid] < by_itself:
                self._blame("it is said to have ended by itself, and did not get there")

    def _is_unborn(self, claim: Claim) -> bool:
        """A coroutine may be cancelled that has not taken its first step, and never will."""
        endings = (Ending.STOPPED, Ending.TIMED_OUT)
        return self._kind == "flow" and claim.ending in endings and not self._began[claim.pid]

    def _judge_error(self, claim: Claim) -> None:
        if self._kind != "fail" or claim.error_type != ChaosError.__name__:
            self._blame(f"it raised {claim.error_type}")

    def _judge_stopped(self, claim: Claim) -> None:
        has_seen = self._saw[claim.pid] or self._is_unborn(claim)
        if self._kind not in STOPPING or not has_seen:
            self._blame("it is said to have been stopped")

    def _judge_time_limit(self, claim: Claim) -> None:
        self._judge_section(claim)
        limit_s, lasted_s = self._account.timeout_s, claim.ended - claim.began
        if limit_s is None or lasted_s < limit_s - SLACK_S:
            self._blame("it had not run out of time")
        elif (
            lasted_s < limit_s + self._account.timeout_grace_s - SLACK_S
            and not self._ended[claim.pid]
            and not self._is_unborn(claim)
        ):
            self._blame("it was killed for its time limit before that grace was over")

    def _judge_loss(self, claim: Claim) -> None:
        if self._kind not in FATAL and not self._blows.explain(claim):
            self._blame(f"nobody killed worker {claim.pid}: {claim.payload!r}")

    def _judge_kill(self, claim: Claim) -> None:
        self._judge_section(claim)
        if claim.ended < self._account.kill_due(self._index) - SLACK_S:
            self._blame("it was killed, which nobody had asked for")

    def _judge_section(self, claim: Claim) -> None:
        """A kill of ours may hit a critical section; one of the product's waits for its end."""
        mine = [
            line
            for line in self._lines
            if line.pid == claim.pid and claim.began - SLACK_S <= line.at <= claim.ended + SLACK_S
        ]
        opened = [line.at for line in mine if line.word == "shielded"]
        sealed = sum(line.word == "sealed" for line in mine)
        if len(opened) > sealed and not self._blows.explain(claim):
            self._blame(f"it was killed {claim.ended - opened[-1]:.3f} s after it was shielded")

    def _judge_skipped(self, _: Claim) -> None:
        if self._began or self._index not in self._account.task_stops:
            self._blame("it is said to have been skipped")

    def _judge_result(self, claim: Claim) -> None:
        if self._kind in FATAL or self._kind == "fail":
            self._blame("it is said to have returned, and cannot")
        if claim.payload != self._result():
            self._add(Broken.LOST, f"its result: {claim.payload[:80]!r}")
        is_only_one = self._began[claim.pid] == 1
        if is_only_one and claim.has_noticed != bool(self._saw[claim.pid]):
            self._blame(f"whether it noticed the stop is said to be {claim.has_noticed}")

    def _result(self) -> bytes:
        if self._kind == "large":
            return b'"%b"' % (b"%d" % (self._index % 10) * LARGE)
        return b"%d" % self._index

    def _blame(self, what: str) -> None:
        self._add(Broken.WRONGLY_BLAMED, what)

    def _add(self, kind: Broken, what: str) -> None:
        shown = [*self._lines[:4], *self._lines[4:][-2:]]
        written = " ".join(f"{line.word}@{line.pid}" for line in shown)
        claims = [claim._replace(payload=claim.payload[:80]) for claim in self._claims]
        self._findings.add(
            kind,
            f"{self._account.name}[{self._index}] {self._kind}: {what}; it wrote: {written or '-'};"
            f" it is said: {claims}; stops: {self._account.stops}",
        )
