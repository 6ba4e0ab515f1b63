"""Shell scripts for the tests of `stop.run`, and which of their processes are still there."""

from __future__ import annotations

from pathlib import Path

_LOOP = "echo $$ >> {log}; while true; do sleep 0.01; done"
#: Each writes its number down. One ends at SIGTERM, one ignores it, one cleans up first.
SLEEPER = "echo $$ >> {log}; exec sleep 1000"
DEAF = f"trap '' TERM; {_LOOP}"
TIDY = f"trap 'sleep 0.2; echo tidied >> {{log}}; exit' TERM; {_LOOP}"


def shell(script: str, log: Path) -> list[str]:
    """A shell with a script that can write to the log."""
    return ["sh", "-c", script.replace("{log}", str(log))]


def alive(log: Path) -> list[int]:
    """Those of the processes that wrote their numbers down that are still there."""
    pids = [int(line) for line in log.read_text().split() if line.isdigit()]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
