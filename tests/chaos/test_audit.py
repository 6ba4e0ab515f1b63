"""The audit trips: for each way to break a promise, a log and a claim that show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.accounts import Account, Ask, Blows, Claim, TaskStop
from tests.chaos.audit import Auditor
from tests.chaos.findings import Broken, Findings, table
from workers.backend import Ending

P, Q = 11, 12
BEGAN, SAW, ENDED = f"began 0 {P} 1 10.0", f"saw 0 {P} 1 10.1", f"ended 0 {P} 1 10.2"
RETURNED = Claim(1, Ending.RETURNED, P, False, b"0", 10.0, 10.2)
LOST = RETURNED._replace(ending=Ending.LOST, payload=b'{"type":"WorkerLost"}')
KILLED = RETURNED._replace(ending=Ending.KILLED, payload=b"")
TIMED_OUT = RETURNED._replace(ending=Ending.TIMED_OUT, payload=b'{"type":"TimeLimitExceeded"}')
RAISED = RETURNED._replace(ending=Ending.RAISED, payload=b'{"type":"OSError"}')


def judged(
    folder: Path,
    lines: list[str],
    claims: list[Claim],
    kind: str = "look",
    *,
    is_final: bool = True,
    ends: tuple[float, ...] = (),
    **known: object,
) -> Findings:
    """What is found in a batch of one task that wrote `lines`; `ends` are those of its services."""
    log = folder / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    account = Account("batch", log, [kind], size_at_end=log.stat().st_size)
    account.claims[0] = claims
    account.finals[0] = int(is_final)
    for name, value in known.items():
        setattr(account, name, value)
    findings, blows = Findings("test"), Blows()
    for end in ends:
        blows.service(end, end)
    auditor = Auditor(findings, blows)
    auditor.judge(account)
    if not ends:  # a worker that dies with its service is nobody's fault
        auditor.judge_workers()
    return findings


def test_a_task_that_keeps_its_promises_is_not_blamed(tmp_path: Path) -> None:
    """Or every run would be red."""
    assert judged(tmp_path, [BEGAN, ENDED], [RETURNED]).is_clean
    stopped = RETURNED._replace(has_noticed=True)
    assert judged(tmp_path, [BEGAN, SAW, ENDED], [stopped], stops=[Ask(9.0, None)]).is_clean
    assert judged(tmp_path, [], [], is_final=False, stops=[Ask(9.0, None)]).is_clean


def test_the_grace_counts_from_the_first_stop_also_if_nobody_asked_for_it(tmp_path: Path) -> None:
    """A failure stops a batch that is to fail fast; the DELETE after it only brings the grace."""
    asked = [Ask(10.15, 0.1)]

    assert judged(tmp_path, [BEGAN], [KILLED], stops=asked, stopped_itself=10.1).is_clean
    assert not judged(tmp_path, [BEGAN], [KILLED], stops=asked).is_clean


def test_each_attempt_answers_for_its_own_critical_section(tmp_path: Path) -> None:
    """The same worker may run the same task again."""
    shielded, sealed = f"shielded 0 {P} 1 10.05", f"sealed 0 {P} 1 10.1"
    again = [f"began 0 {P} 1 20.0", f"shielded 0 {P} 1 20.05", f"ended 0 {P} 1 20.1"]
    lines = [BEGAN, shielded, sealed, ENDED, *again]
    later = TIMED_OUT._replace(attempt=2, began=20.0, ended=20.1)
    found = judged(
        tmp_path, lines, [TIMED_OUT, later], kind="guard", timeout_s=0.01, max_attempts=2
    )

    assert found.counts[Broken.WRONGLY_BLAMED] == 1


@pytest.mark.parametrize(
    ("lines", "claims", "known"),
    [
        ([], [], {"is_final": False}),
        ([BEGAN, ENDED], [], {"is_final": False, "stops": [Ask(9.0, None)]}),
        ([BEGAN], [LOST], {"is_final": False, "stops": [Ask(9.0, None)], "max_attempts": 2}),
        ([BEGAN, ENDED], [RETURNED._replace(payload=b"7")], {}),
    ],
    ids=["silence", "ran", "failed once", "result"],
)
def test_what_nobody_accounts_for_is_lost(
    tmp_path: Path, lines: list[str], claims: list[Claim], known: dict[str, object]
) -> None:
    """A task or a result of which nothing, or something else, is said."""
    assert judged(tmp_path, lines, claims, **known).counts[Broken.LOST]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "claims", "known"),
    [
        ([BEGAN, ENDED, f"began 0 {Q} 1 11.0", f"ended 0 {Q} 1 11.1"], [RETURNED], {}),
        ([BEGAN, ENDED], [RETURNED, RETURNED._replace(attempt=3)], {"max_attempts": 3}),
        ([BEGAN, ENDED], [RETURNED._replace(attempt=2)], {"tells_every_attempt": False}),
    ],
    ids=["in two workers", "a number left out", "too many"],
)
def test_what_runs_more_often_than_is_said_is_duplicated(
    tmp_path: Path, lines: list[str], claims: list[Claim], known: dict[str, object]
) -> None:
    """The second run of a task that may run once is a message sent twice."""
    found = judged(tmp_path, lines, claims, **known)  # type: ignore[arg-type]

    assert found.counts[Broken.DUPLICATED]


def test_a_line_after_the_end_is_found(tmp_path: Path) -> None:
    """Of the task, or of a process that it has left; of the batch, or of a task stopped alone."""
    early = {"size_at_end": len(BEGAN) + 1}
    alone = {0: TaskStop([Ask(9.0, None)], size_at_end=len(BEGAN) + 1)}

    for known in (early, {"task_stops": alone}):
        lines = [BEGAN, f"alive 0 {Q} 1 12.0", ENDED]
        found = judged(tmp_path, lines, [RETURNED], "share", **known)
        assert found.counts[Broken.RAN_AFTER_STOP] == 1


def test_what_the_end_of_a_service_cut_off_is_forgiven_and_nothing_else(tmp_path: Path) -> None:
    """Its tasks see a stop, and begin anew, perhaps without anybody having known of their begin."""
    again = [f"began 0 {Q} 1 18.0", f"ended 0 {Q} 1 18.1"]
    second = RETURNED._replace(pid=Q, attempt=2)
    skipped = {"is_final": False, "stops": [Ask(14.0, None)]}

    def kinds(lines: list[str], claims: list[Claim], **known: object) -> set[Broken]:
        known = {"tells_every_attempt": False} | known
        return {*judged(tmp_path, lines, claims, **known).counts}  # type: ignore[arg-type]

    assert kinds([BEGAN, SAW, ENDED, *again], [second], ends=(10.05,)) == set()
    assert kinds([BEGAN, *again], [second._replace(attempt=1)], ends=(10.05,)) == set()
    assert kinds([BEGAN], [], ends=(10.05,), **skipped) == set()
    assert kinds([BEGAN, ENDED], [], resumed=[11.0], **skipped) == set()
    assert kinds([BEGAN, SAW, ENDED, *again], [second], ends=(14.0,)) == {Broken.WRONGLY_BLAMED}
    assert kinds([BEGAN, *again], [second._replace(attempt=1)], ends=(14.0,)) == {Broken.DUPLICATED}
    assert kinds([BEGAN, *again], [second._replace(attempt=3)], ends=(14.0,)) == {Broken.DUPLICATED}
    assert kinds([BEGAN], [], ends=(9.0,), **skipped) == {Broken.LOST}
    assert kinds([BEGAN, ENDED], [], resumed=[9.0], **skipped) == {Broken.LOST}


@pytest.mark.parametrize(
    ("lines", "claim", "kind", "known"),
    [
        ([BEGAN, ENDED], LOST, "look", {}),
        ([BEGAN], RETURNED, "look", {}),
        ([BEGAN, ENDED], RETURNED, "die", {}),
        ([BEGAN, ENDED], RAISED, "look", {}),
        ([BEGAN, ENDED], TIMED_OUT, "look", {}),
        ([BEGAN, ENDED], TIMED_OUT, "look", {"timeout_s": 5.0}),
        ([BEGAN], TIMED_OUT, "look", {"timeout_s": 0.1, "timeout_grace_s": 5.0}),
        ([BEGAN], KILLED, "look", {}),
        ([BEGAN], KILLED, "look", {"stops": [Ask(9.0, None)]}),
        ([BEGAN], KILLED, "look", {"stops": [Ask(9.0, 5.0)]}),
        ([BEGAN, f"shielded 0 {P} 1 10.1"], KILLED, "guard", {"stops": [Ask(9.0, 0.0)]}),
        ([BEGAN, SAW, ENDED], RETURNED._replace(has_noticed=True), "look", {}),
        ([BEGAN, SAW, ENDED], RETURNED, "look", {"stops": [Ask(9.0, None)]}),
        ([BEGAN], RETURNED._replace(ending=Ending.SKIPPED), "look", {}),
        ([BEGAN, ENDED], RETURNED._replace(ending=Ending.STOPPED), "look", {}),
    ],
)
def test_what_is_said_against_the_facts_is_blame(
    tmp_path: Path, lines: list[str], claim: Claim, kind: str, known: dict[str, object]
) -> None:
    """Whoever reads it would look for the fault in the wrong place."""
    found = judged(tmp_path, lines, [claim], kind, **known)  # type: ignore[arg-type]

    assert found.counts[Broken.WRONGLY_BLAMED]


def test_the_death_of_a_worker_is_the_fault_of_the_task_it_was_in(tmp_path: Path) -> None:
    """Not of the one before it, nor of the one behind it, nor of two."""
    log = tmp_path / "log"
    log.write_text(f"{BEGAN}\n{ENDED}\nbegan 1 {P} 1 10.3\n")
    died_in_0 = LOST._replace(began=10.0, ended=10.4)
    died_in_1 = LOST._replace(began=10.3, ended=10.4)

    def blame(*claims: Claim) -> int:
        account = Account("batch", log, ["look", "look"], size_at_end=log.stat().st_size)
        for index, claim in enumerate(claims):
            account.claims[index], account.finals[index] = [claim], 1
        blows, findings = Blows(), Findings("test")
        blows.worker(P, 10.35)
        auditor = Auditor(findings, blows)
        auditor.judge(account)
        auditor.judge_workers()
        return findings.counts.total()

    assert blame(RETURNED, died_in_1) == 0
    assert blame(died_in_0, RETURNED._replace(began=10.3, payload=b"1"))
    assert blame(died_in_0, died_in_1)


def test_the_table_shows_what_was_found_and_what_was_too_gentle() -> None:
    """Nobody reads a thousand lines of log; and no violation may hide behind a green line."""
    found, gentle = Findings("storm", tasks=1_234, took_s=5.0), Findings("races")
    found.add(Broken.LOST, "task 3 of batch-7")
    gentle.harshness["kills"] = 2
    gentle.expect("kills", 3, by_chance=True)
    gentle.expect("kills", 10)
    shown = table([found, gentle])

    assert [line.split()[:3] for line in shown.splitlines()[2:4]] == [
        ["storm", "1,234", "1"],
        ["races", "0", "0"],
    ]
    assert "storm: lost: task 3 of batch-7" in shown
    assert "races: too gentle: kills is 2, not 10" in shown
    assert not found.is_clean
    assert not gentle.is_clean
