"""The README is executed: its commands, its code, its tables, and every answer that it shows."""

import json
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml
from fastapi import FastAPI
from pydantic import BaseModel, ByteSize

from app import cli
from app.lifecycle import FINAL, TASK_FINAL
from app.main import create_app
from app.schemas import BatchOptions
from app.settings import Settings, option, variable
from tests.app.serving import eventually
from tests.service_process import ROOT, ServiceProcess, running_service

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
SHOWN_URL = "http://127.0.0.1:8000"
SHOWN_FOLDER = "/tmp/"
LIMIT_S = 60.0
OUTPUTS = {"http", "json", "jsonl", "text"}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVE = re.compile(r"((?:[A-Z_]+=\S+ )*)make serve")
SAVED_AS = re.compile(r"[Ss]ave \w+ as `(\w+\.py)`")
BATCH_ID = re.compile(r"\b[0-9a-hjkmnp-tv-z]{26}\b")
#: What is different each time: moments, durations, addresses, process ids, and how large and how
#: many the files of this machine's Python are.
VOLATILE = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d+:\d\d:\d\d|\d[\d.]*(?= m?s\b)|(?<=127\.0\.0\.1:)\d+"
    r"|\d+(?:, \d+)+|\d{3,}"
)
VOLATILE_MEMBERS = {"took", "noticed", "ended", "pid", "packed"}
#: The unit of a setting by its type; numbers without a dimension are counts of something.
UNITS = {float: "seconds", ByteSize: "bytes"}
COUNTED = {"workers": "processes", "max_tasks_per_worker": "tasks", "keep_ended": "batches"}
#: Defaults that depend on the machine, and the word for none at all.
WORDED = {"workers": "usable CPUs", "data_dir": "`~/.local/state/quiesce`", "grace": "`never`"}


class Block(NamedTuple):
    """One fenced block of the README."""

    language: str
    text: str
    line: int
    before: str  # all the text above it


BLOCKS = [
    Block(found[1], found[2], README.count("\n", 0, found.start()) + 2, README[: found.start()])
    for found in FENCE.finditer(README)
]
PROSE = FENCE.sub("", README)



# --- what is shown, and what really comes ---------------------------------------------------------


def likeness(text: str) -> str:
    """The text without what is different each time."""
    return re.sub(r"[ ━─]+", " ", VOLATILE.sub("#", BATCH_ID.sub("<id>", text))).strip()


def differences(shown: Any, real: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, apart from what is different each time."""
    if type(shown) is not type(real):
        yield f"{where}: {shown!r} is shown, it is {real!r}"
    elif isinstance(shown, dict):
        if shown.keys() != real.keys():
            yield f"{where}: {sorted(shown)} are shown, there are {sorted(real)}"
            return
        for name in shown.keys() - VOLATILE_MEMBERS:
            yield from differences(shown[name], real[name], f"{where}/{name}")
    elif isinstance(shown, list):
        if len(shown) != len(real):
            yield f"{where}: {len(shown)} are shown, there are {len(real)}"
        for index, (left, right) in enumerate(zip(shown, real, strict=False)):
            yield from differences(left, right, f"{where}/{index}")
    elif likeness(str(shown)) != likeness(str(real)):
        yield f"{where}: {shown!r} is shown, it is {real!r}"


def missing_lines(shown: str, real: str) -> list[str]:
    """Shown lines that are not really there, in this order; only `...` stands for any number."""
    there = [likeness(line) for line in real.splitlines()]
    may_skip = False
    for line in shown.splitlines():
        if line == "...":
            may_skip = True
            continue
        found = there.index(likeness(line)) if likeness(line) in there else None
        if found is None or (found and not may_skip):
            return [f"{line!r} is shown; what comes is {there[:3]}"]
        there, may_skip = there[found + 1 :], False
    return [] if may_skip or not any(there) else [f"{there} is not shown"]


def check_http(shown: str, real: str) -> Iterator[str]:
    """Status and the headers shown; then the body, unless `...` stands for it."""
    (top, _, body), (real_top, _, real_body) = shown.partition("\n\n"), real.partition("\n\n")
    status, *headers = top.splitlines()
    real_status, *real_headers = real_top.splitlines()
    # The reason phrase is the interpreter's, and 422 was given another one.
    if status.split()[:2] != real_status.split()[:2]:
        yield f"{status!r} is shown, it is {real_status!r}"
    there = [likeness(header) for header in real_headers]
    yield from (f"no {line}" for line in headers if line != "..." and likeness(line) not in there)
    if body.strip():
        yield from differences(json.loads(body), json.loads(real_body))


def check_output(block: Block, real: str) -> list[str]:
    """What is wrong with the output that a block shows."""
    if block.language == "http":
        return list(check_http(block.text, real.replace("\r\n", "\n")))
    if block.language == "json":
        return list(differences(json.loads(block.text), json.loads(real)))
    if block.language == "jsonl":
        shown, lines = block.text.splitlines(), real.splitlines()
        return list(differences([*map(json.loads, shown)], [*map(json.loads, lines)]))
    return missing_lines(block.text, real)


# --- typing what it says --------------------------------------------------------------------------


def recipe(target: str) -> str:
    """What `make TARGET` would run at last, by make's own word."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()[-1].removeprefix("exec ")


class Stranger:
    """Types every command in order, as somebody does who has only the README."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._service: ServiceProcess | None = None
        self._ids: dict[str, str] = {}  # as shown -> as it is here
        self._variables: list[str] = []

    def type(self, command: str) -> str:
        """Do what a block of commands says; what the terminal then shows."""
        if served := SERVE.fullmatch(command.strip()):
            return self._serve(served[1].split())
        here = self._here(command)
        script = "\n".join(["set -eu -o pipefail", *self._variables, here])
        run = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        self._variables += re.findall(r"^[A-Z]+=\S+$", here, re.MULTILINE)
        return run.stdout

    def save(self, block: Block) -> None:
        """Put the text into the file that the sentence above names, where the service starts."""
        name = SAVED_AS.findall(README[: block.start])[-1]
        (self._folder / name).write_text(block.text, encoding="utf-8")

    def read(self, block: Block, real: str) -> None:
        """Compare what is shown with what came, and learn which id stands for which."""
        for shown, here in zip(BATCH_ID.findall(block.text), BATCH_ID.findall(real), strict=False):
            assert self._ids.setdefault(shown, here) == here, f"{shown} stands for two batches"
        assert check_output(block, real) == [], f"line {block.line}"

    def _serve(self, assignments: list[str]) -> str:
        """`make serve` with the variables before it, but on a free port and in a folder of its own."""
        assert recipe("serve") == ".venv/bin/python -m app serve"
        given = dict(word.split("=", 1) for word in assignments)
        given["PYTHONPATH"] = os.pathsep.join([str(self._folder), os.environ.get("PYTHONPATH", "")])
        self._stack.close()
        self._service = self._stack.enter_context(running_service(self._folder, **given))
        return self._service.stdout().replace(self._service.url, SHOWN_URL)

    def _here(self, command: str) -> str:
        """The command with this machine's names in it."""
        if SHOWN_URL in command:
            assert self._service is not None, f"no service runs yet: {command}"
            command = command.replace(SHOWN_URL, self._service.url)
        for shown, here in self._ids.items():
            command = command.replace(shown, here)
        return command.replace(SHOWN_FOLDER, f"{self._folder}/")


def test_every_command_does_what_is_shown(tmp_path: Path) -> None:
    """An example that no longer works costs every newcomer more than it cost us to check."""
    real = None  # what the block before has printed
    with ExitStack() as stack:
        stranger = Stranger(tmp_path, stack)
        for block in BLOCKS:
            if block.language in OUTPUTS:
                assert real is not None, f"line {block.line}: nothing prints this"
                stranger.read(block, real)
            real = None
            if block.language == "python":
                stranger.save(block)
            elif block.language == "sh" and block.text not in ELSEWHERE:
                real = stranger.type(block.text)
