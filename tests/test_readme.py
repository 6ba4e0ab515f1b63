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
UNITS = {float: "seconds", ByteSize: "bytes", Path: "folder"}
COUNTED = {"workers": "processes", "max_tasks_per_worker": "tasks", "keep_ended": "batches"}
COMPUTED = {"workers": "the usable CPUs", "data_dir": "`~/.local/state/quiesce`"}


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


# --- typing what it says ------------------------------------------------------------------------


class Stranger:
    """Types every command in order, as somebody would who has only the README."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._service: ServiceProcess | None = None
        self._ids: dict[str, str] = {}  # as shown -> as they are here
        self._variables: list[str] = []

    def type(self, command: str) -> str:
        """Do what a block of commands says; what the terminal then shows."""
        command = command.replace("\\\n", "")
        if served := SERVE.fullmatch(command.strip()):
            return self._serve(served[1].split())
        if command.startswith(("make ", "docker ")):
            return check_by_hand(command)
        script = "\n".join(["set -eu -o pipefail", *self._variables, self._here(command)])
        self._variables += re.findall(r"^[A-Z]+=\S+$", self._here(command), re.MULTILINE)
        run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=LIMIT_S)
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        return run.stdout

    def save(self, block: Block) -> None:
        """Put a file where the text above it says."""
        names = SAVED_AS.findall(block.before)
        assert names, f"line {block.line}: the text does not say where to save this"
        (self._folder / names[-1]).write_text(block.text, encoding="utf-8")

    def compare(self, shown: str, real: str) -> None:
        """The same apart from moments, durations and names; remembers which id stands for which."""
        for there, here in zip(BATCH_ID.findall(shown), BATCH_ID.findall(real), strict=False):
            assert self._ids.setdefault(there, here) == here, f"{there} stands for two batches"
        assert blur(shown) == blur(real)

    def _serve(self, assignments: list[str]) -> str:
        """`make serve` with the variables before it, but on a free port."""
        words = recipe("serve").removeprefix("exec ").split()
        assert words == [".venv/bin/python", "-m", "app", "serve"]
        given = dict(word.split("=", 1) for word in assignments)
        given["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(self._folder), os.environ.get("PYTHONPATH")])
        )
        self._stack.close()
        self._service = self._stack.enter_context(running_service(self._folder, **given))
        return self._service.stdout().replace(self._service.url, SHOWN_URL)

    def _here(self, command: str) -> str:
        for shown, real in self._ids.items():
            command = command.replace(shown, real)
        if SHOWN_URL in command or "$" in command:
            assert self._service is not None, f"no service runs yet: {command}"
            command = command.replace(SHOWN_URL, self._service.url)
        return command.replace(SHOWN_FOLDER, f"{self._folder}/")
