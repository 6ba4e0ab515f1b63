"""`python -m app demo`: what a stranger runs first."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from app.demo_claims import Claims
from tests.service_process import ROOT
from workers.linux import pids_with_variable

DEMO_LIMIT_S = 90


def test_the_demonstration_runs_and_all_of_it_is_true() -> None:
    """Its exit code is the promise of the README's first command."""
    run = subprocess.run(
        [sys.executable, "-m", "app", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEMO_LIMIT_S,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "All of it was true." in run.stdout
    assert run.stdout.count("  ok ") == 25
    assert "  NO " not in run.stdout
    assert "\x1b" not in run.stdout  # not a terminal: no colours


@pytest.mark.parametrize("moment", ["The service runs on", "kill -9 "])
def test_a_demonstration_that_is_ended_leaves_nothing(tmp_path: Path, moment: str) -> None:
    """Neither its folders nor its services: whoever tries it out may change their mind."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "app", "demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert any(line.startswith(moment) for line in demo.stdout)
        demo.terminate()
        assert demo.wait(DEMO_LIMIT_S) == 128 + signal.SIGTERM

    assert pids_with_variable("TMPDIR", str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_one_claim_that_is_not_true_is_enough_to_fail() -> None:
    """Otherwise exit code 0 would mean nothing."""
    text = io.StringIO()
    claims = Claims(Console(file=text))
    for is_true in (True, False, True):
        claims.check(is_true, "the sky is blue")

    assert not claims.all_true
    assert text.getvalue().count("NO") == 1


def test_a_signal_in_the_midst_of_a_fork_is_not_lost(tmp_path: Path) -> None:
    """Python ignores what is raised in the hooks of a fork, and the demonstration would go on."""
    program = (
        "import os, signal, sys\n"
        "os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))\n"
        "from app import demo\n"
        "sys.exit(demo.run())\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        timeout=DEMO_LIMIT_S,
        check=False,
    )

    assert ended.returncode == 128 + signal.SIGTERM
    assert pids_with_variable("TMPDIR", str(tmp_path)) == []
