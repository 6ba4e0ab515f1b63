"""The benchmarks measure what they say; how fast anything was is never asserted here."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from benchmarks.__main__ import MEASUREMENTS, main
from benchmarks.connection import Reply, parse_reply
from benchmarks.measurement import (
    Compared,
    Measurement,
    MeasurementFailed,
    Row,
    Size,
    Target,
    at_least,
    at_most,
    take_turns,
)
from benchmarks.peers import check_values
from benchmarks.report import COLUMNS, print_report

ROOT = Path(__file__).resolve().parents[1]
TINY = Size(amount=60, rounds=2)
RUN_LIMIT_S = 60.0


def row(target: Target | None = None, ours: float = 3.0, peer: float = 2.0) -> Row:
    """One row whose medians are these."""
    return Row("this", "ms", [ours - 1, ours, ours + 9], "that", [peer], target)


def measurement(name: str, *rows: Row, error: Exception | None = None) -> Measurement:
    """A measurement that gives these rows, or fails."""

    def run(_: Size) -> list[Row]:
        if error is not None:
            raise error
        return list(rows)

    return Measurement(name, run, Size(2, 2), Size(1, 1))


@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_every_measurement_gives_figures_of_both_sides(one: Measurement) -> None:
    """A benchmark nobody runs stops working, and is missed on the day somebody needs it."""
    rows = one.run(TINY)

    assert any(row.target is not None for row in rows)
    for row in rows:
        assert len(row.ours) == len(row.peer) == TINY.rounds
        assert all(math.isfinite(figure) for figure in (*row.ours, *row.peer))
        assert row.ratio == pytest.approx(median(row.ours) / median(row.peer))
        assert row.is_met is None if row.target is None else row.is_met in (True, False)


def test_the_sides_take_turns_after_a_round_that_only_warms_up() -> None:
    """One side after the other would let a busy minute of the machine decide the ratio."""
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    figures = take_turns(2, lambda: side("ours"), lambda: side("peer"))

    assert calls == ["ours", "peer"] * 3
    assert figures == [[3.0, 5.0], [4.0, 6.0]]


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (at_least(1.5), True),
        (at_least(1.6), False),
        (at_most(1.5), True),
        (at_most(1.4), False),
        (at_most(1.0, Compared.DIFFERENCE), True),
        (at_most(0.9, Compared.DIFFERENCE), False),
        (at_least(3.0, Compared.OURS), True),
        (at_most(2.9, Compared.OURS), False),
        (None, None),
    ],
)
def test_a_target_is_held_against_the_medians(target: Target | None, is_met: bool | None) -> None:
    """A verdict the wrong way round would be believed."""
    assert row(target).is_met is is_met


def test_a_target_without_anything_to_compare_with_is_no_verdict() -> None:
    """It must not read as met."""
    with pytest.raises(MeasurementFailed, match="nothing to compare with"):
        _ = Row("this", "ms", [1.0], target=at_least(2.0)).is_met


def test_the_table_in_a_file_is_plain_markdown() -> None:
    """It is pasted into issues and diffs."""
    out = io.StringIO()
    print_report({"kernel": "Linux"}, [row(at_most(1.0)), row()], out)
    lines = [line.strip() for line in out.getvalue().splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]

    assert cells[0] == list(COLUMNS)
    assert cells[2] == ["this", "3.00 ms", "2.00 ms (that)", "1.50 x", "at most 1 x", "NO"]
    assert cells[3] == ["this", "3.00 ms", "2.00 ms (that)", "1.50 x", "", ""]
    assert "\x1b" not in out.getvalue()


def test_a_missed_target_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A slow afternoon of a shared machine must not break a build."""
    file = tmp_path / "figures.json"

    assert main(["--json", str(file)], [measurement("slow", row(at_most(1.0)))]) == 0
    assert "NO" in capsys.readouterr().out
    [written] = json.loads(file.read_text())["rows"]
    assert written["is_met"] is False
    assert written["ratio"] == 1.5
    assert written["ours"] == [2.0, 3.0, 12.0]


def test_a_measurement_that_fails_is_told_and_keeps_no_other_from_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A broken benchmark that exits with 0 is not noticed for months."""
    broken = measurement("broken", error=MeasurementFailed("the tasks got lost"))

    assert main([], [broken, measurement("sound", row())]) != 0
    captured = capsys.readouterr()
    assert "the tasks got lost" in captured.err
    assert "broken FAILED" in captured.err
    assert "3.00 ms" in captured.out


def test_only_what_was_asked_for_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole takes minutes; work on one row needs one row."""
    broken = measurement("broken", error=MeasurementFailed("nobody asked"))

    assert main(["--quick", "--only", "sound"], [broken, measurement("sound", row())]) == 0
    assert "measuring sound: rounds of 1, 1 counted" in capsys.readouterr().err


def test_it_runs_from_the_command_line(tmp_path: Path) -> None:
    """`make bench` does just this."""
    file = tmp_path / "figures.json"
    words = ["--quick", "--only", "one-task-batches", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "Pool.apply_async" in done.stdout
    assert json.loads(file.read_text())["failed"] == []


def test_work_that_was_not_done_is_a_failure_and_not_a_record() -> None:
    """Losing every other task is the easiest way to be twice as fast."""
    check_values([0, 1, 2], 3)

    with pytest.raises(MeasurementFailed):
        check_values([0, 2], 3)


def test_a_reply_is_whole_only_when_all_of_it_has_come() -> None:
    """Half a reply taken for one would time half a request."""
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"

    assert parse_reply(text) == Reply(200, b"body")
    assert [parse_reply(text[:size]) for size in range(len(text))] == [None] * len(text)
