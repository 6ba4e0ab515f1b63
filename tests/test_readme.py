"""The README is executed: its commands, its code, its tables, and every answer that it shows."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import httpx
import pytest
import yaml
from pydantic import ByteSize

from app import cli
from app.forecast import Basis
from app.lifecycle import TASK_FINAL
from app.main import create_app
from app.schemas import BatchOptions
from app.settings import NEVER, Settings, option, variable
from tests.app.serving import Client, eventually
from tests.readme import (
    BLOCKS,
    LIMIT_S,
    OUTPUTS,
    QUOTED,
    README,
    SAVED_AS,
    SHOWN_DATA,
    STEPS,
    Stranger,
    finding,
    recipe,
    table,
    what_differs,
)
from tests.service_process import ROOT, running_service
from workers.stop import StopEvent

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

#: Run by a test of its own, or not to be run by any.
ELSEWHERE = {
    "make demo\n",
    "docker compose up --build\n",
    "make pytest ARGS=test_packing.py\n",
}

#: What a StopEvent has for the worker around it, not for tasks.
FOR_THE_WORKER = {
    *("noticed", "notice", "short_gaps", "has_looked", "last_gap_s"),
    *("glance", "resume", "become_remote"),
}

#: The unit of a setting follows from its type, or from what it counts.
UNITS = {float: "seconds", ByteSize: "bytes"}
COUNTED = {"workers": "processes", "max_tasks_per_worker": "tasks"}
#: Defaults that depend on the machine, or are None and mean something.
WORDED = {
    "workers": "usable CPUs",
    "data_dir": f"`{SHOWN_DATA}`",
    "database": "in the data folder",
    "grace": f"`{NEVER}`",
    "retention": "`30d`",
}


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """`make demo`, begun at once, because it takes its time; calling it gives what was printed."""
    words = recipe("demo").split()
    assert words.pop(0) == ".venv/bin/python"
    path = tmp_path_factory.mktemp("demo") / "output"
    with path.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=output, env={**os.environ, "COLUMNS": "80"}
        )

    def printed() -> str:
        assert process.wait(LIMIT_S) == 0, path.read_text(encoding="utf-8")
        return path.read_text(encoding="utf-8")

    yield printed
    process.send_signal(signal.SIGINT)  # as Ctrl-C: it ends its service first
    process.wait(LIMIT_S)


@pytest.mark.usefixtures("demonstration")
def test_every_command_does_what_is_shown(tmp_path: Path) -> None:
    """An example that no longer works costs every newcomer more than it costs us to check."""
    if missing := [name for name in ("curl", "sqlite3") if shutil.which(name) is None]:
        message = f"not on this machine: {' and '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with ExitStack() as stack:
        stranger = Stranger(tmp_path, stack)
        for block, shown in STEPS:
            if block.language == "yaml" or block.text in ELSEWHERE:
                continue
            real = stranger.follow(block)
            if shown is not None:
                stranger.compare(shown, real)


def test_the_demonstration_prints_what_is_shown(demonstration: Callable[[], str]) -> None:
    """It is the first thing that anybody sees of us."""
    (shown,) = (shown for block, shown in STEPS if block.text == "make demo\n")

    assert shown is not None
    assert what_differs(shown, demonstration()) == []


def test_every_output_follows_the_command_that_prints_it() -> None:
    """Otherwise nothing would compare it."""
    assert [block.line for block in BLOCKS if block.language in OUTPUTS] == [
        shown.line for _, shown in STEPS if shown is not None
    ]


def save_examples(folder: Path) -> list[str]:
    """Write every Python block that is to be saved to a file, under the name that is said."""
    names = []
    for block in BLOCKS:
        for name in SAVED_AS.findall(block.sentence) if block.language == "python" else ():
            (folder / name).write_text(block.text, encoding="utf-8")
            names.append(name)
    return names


def test_code_that_is_quoted_is_in_its_file() -> None:
    """An example that has changed since would not be one any more."""
    quoted = [
        (QUOTED.findall(block.sentence), block.text)
        for block in BLOCKS
        if block.language == "python" and not SAVED_AS.search(block.sentence)
    ]

    assert [names for names, _ in quoted] == [["workers/examples.py"]]
    for (name,), text in quoted:
        assert text in (ROOT / name).read_text(encoding="utf-8")


def test_the_tests_that_are_shown_pass(tmp_path: Path) -> None:
    """With what the command comes down to; here from another folder, with another interpreter."""
    assert save_examples(tmp_path) == ["packing.py", "test_packing.py"]
    (command,) = (
        block.text for block in BLOCKS if "pytest" in block.text and block.language == "sh"
    )
    make, *asked = command.split()
    python, *words = recipe(*asked).split()
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **plugins}
    run = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert (make, python) == ("make", ".venv/bin/python")
    assert "2 passed" in run.stdout, run.stdout


def test_a_stop_leaves_no_half_file_as_the_example_says(tmp_path: Path) -> None:
    """Its first line is a promise, and task authors copy it."""
    save_examples(tmp_path)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # without a byte on disk
    with (
        running_service(tmp_path, QUIESCE_TASKS="packing", **finding(tmp_path)) as service,
        Client(base_url=service.url, timeout=LIMIT_S) as client,
    ):
        batch = client.submit("compress", [{"path": str(large)}])
        eventually(lambda: client.get(batch["links"]["tasks"] + "/0").json().get("progress"))
        assert (tmp_path / "large.part").exists()
        receipt = client.stop(batch).json()

    assert receipt["counts"]["stopped"] == 1
    assert not [*tmp_path.glob("large.*")]


# --- tables and names -----------------------------------------------------------------------------


def unit_of(name: str, annotation: Any) -> str:
    """The unit of a setting; nothing for texts and folders."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    plain = [get_args(kind)[0] if hasattr(kind, "__metadata__") else kind for kind in kinds]
    return COUNTED.get(name) or next((UNITS[kind] for kind in plain if kind in UNITS), "")


def default_of(name: str, value: object) -> str:
    """The default of a setting as the table has it."""
    if name in WORDED:
        return WORDED[name]
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        value = ",".join(value)
    elif isinstance(value, ByteSize):
        value = value.human_readable().replace(".0", "")
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def settings_table() -> str:
    """The table of settings, as it has to stand in the README."""
    rows = [
        "| variable | option | unit | default | what and why |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        unit, default = unit_of(name, field.annotation), default_of(name, field.default)
        names = f"`{variable(name)}` | `{option(name)}`"
        rows.append(f"| {names} | {unit} | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_the_settings_are_those_of_the_service() -> None:
    """Name, unit, default and reason. To write the table anew: print(settings_table())."""
    assert settings_table() in README


def test_the_options_of_a_batch_are_those_of_the_service() -> None:
    """Each with the default that holds when a batch leaves it out."""
    shown = {name.strip("`"): default.strip("`") for name, default, _ in table("`options`")}

    assert {name: yaml.safe_load(default) for name, default in shown.items()} == (
        BatchOptions().model_dump(mode="json")
    )


def test_the_states_are_those_of_the_service() -> None:
    """A receipt has no other ones."""
    assert {name.strip("`") for name, _ in table("state")} == {*TASK_FINAL}


def test_what_a_forecast_is_made_from_is_explained() -> None:
    """The surest first, as in the forecast itself."""
    assert [name.strip("`") for name, _ in table("`basis`")] == [*Basis]


def test_a_stop_event_can_do_what_is_said() -> None:
    """Every method of it, and no other."""
    methods = {name for name in vars(StopEvent) if not name.startswith("_")} - FOR_THE_WORKER

    assert {cell.strip("`").partition("(")[0] for cell, _ in table("`StopEvent`")} == methods


@pytest.fixture(scope="module")
def calls() -> dict[str, dict[str, Any]]:
    """Every operation of the service by "METHOD /path", without the names in the path."""
    paths = create_app(Settings()).openapi()["paths"]
    return {
        anonymous(f"{method.upper()} {path}"): operation
        for path, operations in paths.items()
        for method, operation in operations.items()
    }


CALL = re.compile(r"`((?:GET|POST|DELETE) /[^`? ]*)(?:\?([^`]*))?`")
PAGES = {"GET /", "GET /docs", "GET /openapi.json"}


def anonymous(call: str) -> str:
    return re.sub(r"\{\w+\}", "{}", call)


def test_the_calls_are_those_of_the_service(calls: Mapping[str, Mapping[str, Any]]) -> None:
    """With all their query parameters, and every status that is no mistake of the client."""
    shown = set(PAGES)
    for asked, answered in table("call"):
        for call, query in CALL.findall(asked):
            shown.add(anonymous(call))
            if call in PAGES:
                continue
            operation = calls[anonymous(call)]
            known = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
            good = {status for status in operation["responses"] if status < "400"}

            assert set(re.findall(r"\w+", query)) == known, call
            assert set(re.findall(r"\b[23]\d\d\b", answered)) == good, call
            assert set(re.findall(r"\b[45]\d\d\b", answered)) <= {*operation["responses"]}, call

    assert shown == {*calls} | PAGES


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    """Supervisors decide by them."""
    codes = [0, cli.EXIT_START_FAILED, cli.EXIT_BAD_SETTINGS]

    assert [int(code) for code, _ in table("exit code")] == codes


def test_the_commands_for_developers_are_targets_of_make() -> None:
    """Exactly the five that everybody needs; `make` alone lists the rest."""
    rows = [cell.strip("`") for cell, _ in table("command")]

    assert rows == ["make test", "make demo", "make serve", "make bench", "make chaos"]
    for row in rows:
        assert recipe(row.removeprefix("make "))


def test_what_is_said_of_the_container_is_so() -> None:
    """Nobody here can run it, so at least the files must agree with the text."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    service = compose["services"]["quiesce"]
    limits = service["deploy"]["resources"]["limits"]
    (override,) = (yaml.safe_load(block.text) for block in BLOCKS if block.language == "yaml")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (mount,) = override["services"]["quiesce"]["volumes"]

    assert any(block.text in ELSEWHERE and "docker" in block.text for block in BLOCKS)
    assert service["build"] == "."
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert (limits["cpus"], limits["memory"], limits["pids"]) == ("2", "1G", 512)
    assert (service["stop_grace_period"], service["read_only"]) == ("60s", True)
    assert service["volumes"] == ["data:/data"]
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    assert f"WORKDIR {mount.split(':')[1].rpartition('/')[0]}\n" in dockerfile
    assert "USER 10001:10001" in dockerfile


@pytest.mark.parametrize("text", [README, CHANGELOG], ids=["README", "CHANGELOG"])
def test_every_name_is_one_that_exists(
    text: str, calls: Mapping[str, Mapping[str, Any]], tmp_path: Path
) -> None:
    """Calls, settings, their options, targets of make, metrics, files, and links inside the page."""
    with running_service(tmp_path) as service:
        metrics = httpx.get(f"{service.url}/metrics").text
    prose = text.replace("QUIESCE_*", "")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    settings = Settings.model_fields
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert {anonymous(call) for call, _ in CALL.findall(text)} <= {*calls} | PAGES
    assert {*re.findall(r"QUIESCE_[A-Z_]+", prose)} <= {*map(variable, settings)}
    assert {*re.findall(r"`(--[a-z-]+)`", text)} <= {*map(option, settings), "--max-time"}
    assert {*re.findall(r"quiesce_[a-z_]+", text)} <= {*re.findall(r"quiesce_\w+", metrics)}
    assert {*re.findall(r"`make ([a-z-]+)`", text)} <= {*re.findall(r"(?m)^([a-z-]+):", makefile)}
    assert {*re.findall(r"\]\(#([^)]+)\)", text)} <= anchors
    assert all((ROOT / path).is_file() for path in re.findall(r"`(\w+/[\w/]+\.\w+)`", text))
