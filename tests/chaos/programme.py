"""The whole programme: its parts, in order, each with dice of its own from one seed."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.chaos.crashes import crashes, crashes_on_postgresql
from tests.chaos.crowd import crowd
from tests.chaos.deaths import deaths
from tests.chaos.findings import Findings
from tests.chaos.machine import machine, machine_on_postgresql
from tests.chaos.races import races
from tests.chaos.storm import storm

Part = Callable[[Path, Random, float], Findings]

PARTS: dict[str, Part] = {
    "storm": storm,
    "races": races,
    "crowd": crowd,
    "deaths": deaths,
    "crashes": crashes,
    "crashes on postgresql": crashes_on_postgresql,
    "machine": machine,
    "machine on postgresql": machine_on_postgresql,
}


def run_part(name: str, folder: Path, seed: int, scale: float) -> Findings:
    """Run one part in an empty folder; `scale` 1 is all of it."""
    place = folder / name
    place.mkdir()
    with no_core_files():
        return PARTS[name](place, Random(f"{seed} {name}"), scale)


@contextmanager
def no_core_files() -> Iterator[None]:
    """Thousands of crashes are on the programme; none is worth a core file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
