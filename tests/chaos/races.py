"""Races: tasks that end at about the moment of their kill, with bystanders on the same workers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Literal

from tests.chaos.arena import LIMIT_S, Arena, running_arena
from tests.chaos.findings import Broken, Findings
from tests.chaos.mixture import Draft
from tests.chaos.witness import Witness
from workers.backend import Ending

RACES = 10_000
WORKERS = 4
#: Victims and batches of bystanders that are there at a time.
VICTIMS, BYSTANDERS = 5, 3
#: How long a victim lasts, and how finely the kill is aimed at its end.
LASTS_S = 0.012
STEP_S = 0.0002
SCATTER_S = 0.0003
POLL_S = 0.0005

Way = Literal["grace", "limit", "limit and grace", "one task", "section"]
WAYS: tuple[Way, ...] = ("grace", "limit", "limit and grace", "one task", "section")


def races(folder: Path, dice: Random, scale: float) -> Findings:
    """Run the races; `scale` 1 is all of them."""
    findings = Findings("races")
    count = round(RACES * scale)
    with running_arena(findings, folder, WORKERS) as arena:
        _Races(arena, dice).run(count)
        arena.settle_all()
        arena.expect_recovery(dice)
    for way in WAYS:
        for end in ("killed", "finished"):
            findings.expect(f"{way}: {end}", count / 50, by_chance=True)
    findings.expect("bystanders", count)
    return findings


@dataclass
class _Race:
    """One victim, and when its kill is due after its beginning."""

    way: Way
    witness: Witness
    due_s: float
    is_asked: bool = False


class _Races:
    def __init__(self, arena: Arena, dice: Random) -> None:
        self._arena, self._dice = arena, dice
        self._done = arena.findings.harshness
        #: From the planned end of a victim to its kill, by way: moved until either wins half of them.
        self._lead_s: defaultdict[Way, float] = defaultdict(float)
        self._racing: list[_Race] = []
        self._around: list[Witness] = []

    def run(self, count: int) -> None:
        """Have so many races, a few at a time."""
        started, moved = 0, monotonic()
        while (started < count or self._racing) and self._arena.is_worth_going_on:
            while started < count and len(self._racing) < VICTIMS:
                self._racing.append(self._start())
                started += 1
            for race in self._racing[:]:
                if not race.is_asked:
                    race.is_asked = self._ask(race)
                if race.witness.is_over:
                    self._finish(race)
                    moved = monotonic()
            self._keep_bystanders()
            if monotonic() > moved + LIMIT_S:
                self._arena.findings.add(Broken.HUNG, "no race ends any more")
                break
            sleep(POLL_S)

    def _start(self) -> _Race:
        way = self._dice.choice(WAYS)
        due_s = LASTS_S + self._lead_s[way] + self._dice.gauss(0, SCATTER_S)
        draft = Draft("act", ["nap"], [LASTS_S])
        if way == "limit":
            draft.options |= {"timeout_s": due_s, "timeout_grace_s": 0.0}
        elif way == "limit and grace":
            draft.options |= {"timeout_s": due_s / 2, "timeout_grace_s": due_s / 2}
        elif way == "section":  # it opens with the task, and is over half way
            draft.kinds, draft.seconds = ["guard"], [LASTS_S / 2]
            due_s = self._dice.uniform(0, 1.2 * LASTS_S)
        elif way == "one task":  # the others are bystanders of the very same batch
            draft.kinds, draft.seconds = ["nap"] * 4, [LASTS_S, 0.0, 0.001, 0.001]
        return _Race(way, self._arena.submit(draft), due_s)

    def _ask(self, race: _Race) -> bool:
        """Once the victim has begun, ask for a stop whose grace ends with it; whether it was asked."""
        if race.way in ("limit", "limit and grace"):
            return True
        name = race.witness.account.name
        victim = next((task for task in self._arena.pool.running(name) if task.index == 0), None)
        if victim is None:
            return False
        grace_s = max(0.0, victim.began + race.due_s - monotonic())
        if race.way == "one task":
            self._arena.stop_task(race.witness, 0, grace_s)
        else:
            self._arena.stop(race.witness, grace_s)
        return True

    def _finish(self, race: _Race) -> None:
        """Note who won, and aim the next kill of that sort better."""
        self._racing.remove(race)
        self._arena.settle(race.witness)
        claims = race.witness.account.claims[0]
        is_killed = bool(claims) and claims[-1].ending is not Ending.RETURNED
        if race.way == "limit and grace":  # late in either case: the question is whether it ended
            is_killed = b"ended 0" not in race.witness.account.log.read_bytes()
        self._done[f"{race.way}: {'killed' if is_killed else 'finished'}"] += 1
        self._lead_s[race.way] += STEP_S if is_killed else -STEP_S

    def _keep_bystanders(self) -> None:
        """Short work of others, so that every worker is always about to begin with something."""
        for witness in [witness for witness in self._around if witness.is_over]:
            self._around.remove(witness)
            self._arena.settle(witness)
            self._done["bystanders"] += len(witness.account.kinds)
        while len(self._around) < BYSTANDERS:
            self._around.append(self._arena.submit(self._bystander()))

    def _bystander(self) -> Draft:
        if self._dice.random() < 0.5:
            count = self._dice.randint(20, 200)
            return Draft("tick", ["tick"] * count, [0.0] * count)
        count = self._dice.randint(3, 12)
        return Draft("act", ["nap"] * count, [0.001] * count)
