"""The README as the tests read it: blocks, tables, and a stranger who types what it says."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.service_process import ROOT, ServiceProcess, running_service

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN_URL = "http://127.0.0.1:8000"
SHOWN_FOLDER = "/tmp/"
SHOWN_DATA = "~/.local/state/quiesce"
LIMIT_S = 60.0

OUTPUTS = {"http", "json", "jsonl", "text"}

_SERVE = re.compile(r"((?:[A-Z_]+=\S+ )*)make serve\n")
SAVED_AS = re.compile(r"[Ss]ave \w+ as `(\w+\.py)`")
QUOTED = re.compile(r"[Aa]s\s+in `([\w/]+\.py)`")
KILLS = "kill -9 $"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BATCH_ID = re.compile(r"\b[0-9a-hjkmnp-tv-z]{26}\b")
#: Different each time: moments and durations.
_MOMENTS = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d+:\d\d:\d\d|\d[\d.]*(?= m?s\b)")
#: Different on each machine: ports, process ids, what was done by then, and how many files it has.
_NUMBERS = re.compile(r"(?<=127\.0\.0\.1:)\d+|\d+(?:, \d+)+|\b\d+-\d+\b|(?<!answered )\b\d{3,}\b")
VOLATILE_MEMBERS = {"took", "noticed", "ended", "pid", "packed", "worst", "p99"}
VOLATILE_MEMBERS |= {"worst_gap", "usual_gap", "silent_for", "predicted"}


class Block(NamedTuple):
    """One fenced block of the README."""

    language: str
    text: str
    line: int
    sentence: str  # that leads to it


def blocks() -> Iterator[Block]:
    for found in _FENCE.finditer(README):
        above = README[: found.start()]
        yield Block(found[1], found[2], above.count("\n") + 2, above.rstrip().rpartition("\n\n")[2])


BLOCKS = [*blocks()]
#: Every block that does something, with the one that shows what it prints.
STEPS = [
    (block, after if after.language in OUTPUTS else None)
    for block, after in pairwise([*BLOCKS, Block("", "", 0, "")])
    if block.language not in OUTPUTS
]


def likeness(text: str) -> str:
    """The text without what is different each time."""
    return _MOMENTS.sub("#", BATCH_ID.sub("<id>", text))


def rough_likeness(line: str) -> str:
    """A line on a terminal without what is different on each machine: numbers, widths of columns."""
    return re.sub(r"[ ━─]+", " ", _NUMBERS.sub("#", likeness(line))).strip()


def differences(shown: Any, real: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, apart from what is different each time."""
    if type(shown) is not type(real):
        yield f"{where}: {shown!r} is shown, it is {real!r}"
    elif isinstance(shown, dict):
        if shown.keys() != real.keys():
            yield f"{where}: {sorted(shown)} are shown, there are {sorted(real)}"
        for name in shown.keys() & real.keys():
            left, right = shown[name], real[name]
            if name in VOLATILE_MEMBERS:
                left, right = str(type(left)), str(type(right))
            yield from differences(left, right, f"{where}/{name}")
    elif isinstance(shown, list):
        if len(shown) != len(real):
            yield f"{where}: {len(shown)} are shown, there are {len(real)}"
        for index, (left, right) in enumerate(zip(shown, real, strict=False)):
            yield from differences(left, right, f"{where}/{index}")
    elif isinstance(shown, str) and likeness(shown) == likeness(real):
        return
    elif shown != real:
        yield f"{where}: {shown!r} is shown, it is {real!r}"


def lines_differ(shown: str, real: str) -> Iterator[str]:
    """Whether other lines come than those shown; `...` stands for any number of them."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(rough_likeness(line)) + "\n"
        for line in shown.splitlines()
    )
    lines = "".join(rough_likeness(line) + "\n" for line in real.splitlines())
    if not re.fullmatch(pattern, lines):
        yield f"not what is shown:\n{real}"


def answers_differ(shown: str, real: str) -> Iterator[str]:
    """Status and headers as shown, in any order; then the body, if it is shown."""
    (top, _, body), (real_top, _, real_body) = shown.partition("\n\n"), real.partition("\n\n")
    status, *headers = top.splitlines()
    real_status, *real_headers = real_top.splitlines()
    # Without the reason phrase: it is the interpreter's, and 422 was given another one.
    yield from differences(status.split()[:2], real_status.split()[:2])
    there = {"...", *map(likeness, real_headers)}
    yield from (f"there is no {header}" for header in headers if likeness(header) not in there)
    if body.strip():
        yield from differences(json.loads(body), json.loads(real_body))


def what_differs(block: Block, real: str) -> list[str]:
    """What is wrong with the output that a block shows."""
    if block.language == "http":
        return [*answers_differ(block.text, real.replace("\r\n", "\n"))]
    if block.language == "json":
        return [*differences(json.loads(block.text), json.loads(real))]
    if block.language == "jsonl":
        shown, lines = block.text.splitlines(), real.splitlines()
        return [*differences([*map(json.loads, shown)], [*map(json.loads, lines)])]
    return [*lines_differ(block.text, real)]


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first column has this title; each row a list of cells."""
    _, _, rest = README.partition(f"\n| {first} |")
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("| "):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"there is no table of {first}"
    return rows


def recipe(*asked: str) -> str:
    """What `make ASKED` comes down to, by make's own word."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words = ["make", "--dry-run", *asked]
    run = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1].removeprefix("exec ")


class Stranger:
    """Types every command in order, as somebody does who has only the README."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._service: ServiceProcess | None = None
        self._ids: dict[str, str] = {}  # as shown -> as it is here
        self._variables: list[str] = []

    def follow(self, block: Block) -> str:
        """Do what a block says; what the terminal then shows."""
        if block.language == "python":
            for name in SAVED_AS.findall(block.sentence):
                (self._folder / name).write_text(block.text, encoding="utf-8")
            return ""
        if served := _SERVE.fullmatch(block.text):
            return self._serve(dict(word.split("=", 1) for word in served[1].split()))
        # Variables as they are shown: where the service answers may change.
        script = "\n".join(["set -eu -o pipefail", *self._variables, block.text])
        words = ["bash", "-c", self._here(script)]
        run = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert run.returncode == 0, f"line {block.line}: {run.stdout}{run.stderr}"
        if KILLS in block.text and self._service is not None:
            self._service.wait()
        self._variables += re.findall(r"^[A-Z]+=\S+$", block.text, re.MULTILINE)
        return run.stdout

    def compare(self, shown: Block, real: str) -> None:
        """What is shown with what came; remembers which batch stands for which."""
        assert what_differs(shown, real) == [], f"line {shown.line}"
        pairs = zip(BATCH_ID.findall(shown.text), BATCH_ID.findall(real), strict=False)
        for there, here in pairs:
            assert self._ids.setdefault(there, here) == here, f"line {shown.line}: {there}"

    def _serve(self, given: dict[str, Any]) -> str:
        """`make serve` with these variables, but on a free port and with modules from our folder."""
        assert recipe("serve") == ".venv/bin/python -m app serve"
        self._stack.close()
        running = running_service(self._folder, **given, **finding(self._folder))
        self._service = self._stack.enter_context(running)
        return self._service.stdout().replace(self._service.url, SHOWN_URL)

    def _here(self, command: str) -> str:
        """The command with the names of this machine in it."""
        if self._service is not None:
            command = command.replace(SHOWN_URL, self._service.url)
        for there, here in self._ids.items():
            command = command.replace(there, here)
        command = command.replace(SHOWN_FOLDER, f"{self._folder}/")
        return command.replace(SHOWN_DATA, f"{self._folder}/data")


def finding(folder: Path) -> dict[str, Any]:
    """The variable that lets Python find the modules of a folder."""
    more = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([more] if more else [])])}
