"""`python -m app demo`: what a stranger runs first."""

import io
import subprocess
import sys

from rich.console import Console

from app.demo import Claims
from tests.service_process import ROOT

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
    assert run.stdout.count("  ok ") == 12
    assert "  NO " not in run.stdout
    assert "\x1b" not in run.stdout  # not a terminal: no colours


def test_one_claim_that_is_not_true_is_enough_to_fail() -> None:
    """Otherwise exit code 0 would mean nothing."""
    text = io.StringIO()
    claims = Claims(Console(file=text))
    for is_true in (True, False, True):
        claims.check(is_true, "the sky is blue")

    assert not claims.all_true
    assert text.getvalue().count("NO") == 1
