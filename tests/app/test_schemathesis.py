"""The service against its own OpenAPI document: generated requests, good, bad and in chains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import ROOT, running_service

SEED = "20261122"
MAX_EXAMPLES = "50"
RUN_LIMIT_S = 100.0

#: The few expectations that do not hold here, each with its reason.
EXCEPTIONS = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(150)
def test_generated_requests_find_no_server_error_and_nothing_undocumented(tmp_path: Path) -> None:
    """The document is a promise: every status, header, media type and body in it is what is sent."""
    with running_service(
        tmp_path, QUIESCE_GRACE="0.2", QUIESCE_STOP_WAIT="1", QUIESCE_SHUTDOWN_GRACE="1"
    ) as service:
        found = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(EXCEPTIONS)),
                *("run", f"{service.url}/openapi.json"),
                *("--seed", SEED, "--max-examples", MAX_EXAMPLES, "--no-shrink"),
                *("--generation-database", "none", "--request-timeout", "20"),
            ],
            cwd=tmp_path,  # not the project: no leftovers, and no configuration but this one
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": "tests.app.request_hooks",
            },
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        log = service.stderr()

    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2_000:]
    assert "Traceback" not in log
