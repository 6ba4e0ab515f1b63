"""A twentieth of the chaos: whatever is killed, and whenever, no promise is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.programme import PARTS, run_part

SEED = 20261122
SCALE = 1 / 20


@pytest.mark.parametrize("part", PARTS)
def test_no_promise_is_broken_whatever_is_killed(part: str, tmp_path: Path) -> None:
    """Judged by what the tasks wrote themselves; the whole programme is `make chaos`."""
    findings = run_part(part, tmp_path, SEED, SCALE)

    assert findings.is_clean, findings.complaint()
