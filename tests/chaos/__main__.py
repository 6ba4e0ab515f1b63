"""`python -m tests.chaos`: run the programme, print what it found; exit code 1 if it is not clean."""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from tests.chaos.findings import Findings, table
from tests.chaos.programme import PARTS, run_part


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for, or all of them."""
    asked = _parser().parse_args(words)
    folder = Path(tempfile.mkdtemp(prefix="quiesce-chaos-"))
    # A pool says much about what is done to it here; it is read when something is wrong.
    logging.basicConfig(filename=folder / "log", format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"seed {asked.seed}, scale {asked.scale:g}", flush=True)
    found: list[Findings] = []
    for part in asked.only or PARTS:
        print(f"{part} ...", flush=True)
        found.append(run_part(part, folder, asked.seed, asked.scale))
    print(f"\n{table(found)}")
    if all(findings.is_clean for findings in found):
        shutil.rmtree(folder)
        return 0
    print(f"\nseed {asked.seed}; what was written and logged is in {folder}")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    parser.add_argument("--scale", type=float, default=1.0, help="1 is all of it (default: 1)")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"{list(PARTS)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
