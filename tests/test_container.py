"""What the container files promise, checked as far as that goes without a container engine."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.main import STORE_LIMIT_S
from app.settings import Settings, load_settings, variable

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")

MAX_SHIELD_S = 30.0  # what a task inside a shield may add to the shutdown grace
SETTLE_S = 5.0  # to reap, answer and leave
CHECK_WAIT_S = 20.0

BUILD_TOOLS = {
    "apk", "apt", "apt-get", "build-essential", "cc", "curl", "g++", "gcc", "git", "make",
    "pip", "pip3", "uv", "wget",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its continued lines joined."""

    name: str
    text: str

    def exec_form(self) -> list[str]:
        """The words of a JSON array after the flags: what is run without a shell."""
        words = json.loads(self.text[self.text.index("[") :])
        assert isinstance(words, list)
        return [str(word) for word in words]

    def flags(self) -> dict[str, str]:
        return dict(re.findall(r"--([a-z-]+)=(\S+)", self.text))

    def sources(self) -> list[str]:
        """What a COPY copies, seen from its origin."""
        return [word for word in self.text.split() if not word.startswith("--")][:-1]


def stages_of(dockerfile: str) -> list[list[Instruction]]:
    """The instructions of each stage, FROM first."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[list[Instruction]] = []
    for line in joined.splitlines():
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if stages and name:
            stages[-1].append(Instruction(name, text.strip()))
    return stages


STAGES = stages_of((ROOT / "Dockerfile").read_text(encoding="utf-8"))
FINAL = STAGES[-1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def all_of(stage: list[Instruction], name: str) -> list[Instruction]:
    return [instruction for instruction in stage if instruction.name == name]


def the(name: str) -> Instruction:
    """The only instruction of that name in the final stage."""
    (only,) = all_of(FINAL, name)
    return only


def environment(stage: list[Instruction]) -> dict[str, str]:
    words = [word for env in all_of(stage, "ENV") for word in shlex.split(env.text)]
    return dict(word.split("=", 1) for word in words)


def service() -> dict[str, Any]:
    (only,) = COMPOSE["services"].values()
    assert isinstance(only, dict)
    return only


def seconds(duration: str) -> float:
    """A compose duration such as `1m30s`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    parts = re.findall(r"(\d+)([hms])", duration)
    assert "".join(number + unit for number, unit in parts) == duration
    return sum(int(number) * units[unit] for number, unit in parts)


def pins(lock: str) -> dict[str, str]:
    """Package -> version in a lock file."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def test_the_final_stage_has_nothing_to_build_or_download_with() -> None:
    """What is not in the image cannot be used against it, and need not be patched."""
    words = {word for run in all_of(FINAL, "RUN") for word in re.split(r"[\s/;&|]+", run.text)}

    assert len(STAGES) > 1
    assert FINAL[0].text.endswith("-slim")
    assert not words & BUILD_TOOLS


def test_the_service_does_not_run_as_root() -> None:
    """A task that breaks out of its process finds nothing it may change."""
    user = the("USER").text

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert FINAL.index(the("USER")) < FINAL.index(the("CMD"))
    assert not [run for run in all_of(FINAL, "RUN") if FINAL.index(run) > FINAL.index(the("USER"))]


def test_the_stop_signal_reaches_the_service_itself() -> None:
    """A shell in between would take the SIGTERM and leave the tasks to the kill that follows."""
    assert the("STOPSIGNAL").text == "SIGTERM"
    assert the("CMD").exec_form() == ["python", "-m", "app", "serve"]
    assert not all_of(FINAL, "ENTRYPOINT")


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    """A build that fails on a missing file fails on somebody else's machine first."""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copied = [
        source
        for stage in STAGES
        for copy in all_of(stage, "COPY")
        if "from" not in copy.flags()
        for source in copy.sources()
    ]

    assert copied
    assert "*" in ignore
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert [path for path in copied if not any(fnmatch(path, pattern) for pattern in kept)] == []


def test_what_the_final_stage_takes_over_was_made_in_the_build_stage() -> None:
    """The two stages meet in a few absolute paths and in nothing else."""
    made = " ".join(instruction.text for stage in STAGES[:-1] for instruction in stage)
    taken = [copy for copy in all_of(FINAL, "COPY") if copy.flags().get("from") == "build"]

    assert {source for copy in taken for source in copy.sources()} >= {"/opt/quiesce"}
    assert all(source in made for copy in taken for source in copy.sources())
    assert the("WORKDIR").text in {copy.text.split()[-1] for copy in taken}


def test_both_stages_have_the_same_interpreter() -> None:
    """The environment is copied with links to the interpreter it was made by."""
    assert {stage[0].text.split()[0] for stage in STAGES} == {FINAL[0].text.split()[0]}


def test_packages_are_installed_by_hash_and_never_compiled() -> None:
    """The image holds exactly the files the tests ran with."""
    installs = [run.text for run in all_of(STAGES[0], "RUN") if "-m pip " in run.text]

    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert "--only-binary=:all:" in installs[0]
    assert "requirements.lock" in installs[0]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    """Any machine can install from the lock, from whichever registry it reaches."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]

    assert len(entries) == len(pins(lock)) > 0
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|^--|\s@\s|^-e", text, re.MULTILINE)


def test_the_locks_satisfy_what_the_project_asks_for() -> None:
    """A dependency added without `make lock` would be missing from the image only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = [Requirement(text) for text in project["project"]["dependencies"]]
    dev = [Requirement(text) for text in project["dependency-groups"]["dev"]]
    for lock, wanted in zip(LOCKS, (runtime, runtime + dev), strict=True):
        locked = pins(lock)

        assert [str(r) for r in wanted if canonicalize_name(r.name) not in locked] == []
        assert [
            str(r) for r in wanted if locked[canonicalize_name(r.name)] not in r.specifier
        ] == []


def test_the_tests_run_with_the_packages_of_the_image() -> None:
    """What is tested is what is shipped."""
    assert pins("requirements.lock").items() <= pins("requirements-dev.lock").items()


def test_the_image_and_the_compose_file_set_only_what_the_service_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service refuses to start with a variable it does not know."""
    for name in [name for name in os.environ if name.startswith("QUIESCE_")]:
        monkeypatch.delenv(name)
    together = environment(FINAL) | service()["environment"]
    for name, value in together.items():
        if name.startswith("QUIESCE_"):
            monkeypatch.setenv(name, value)
    settings = load_settings()

    assert settings.host == "0.0.0.0"
    assert settings.port == int(the("EXPOSE").text)
    assert str(settings.data_dir) == json.loads(the("VOLUME").text)[0]


def test_compose_waits_longer_than_the_service_needs_to_stop() -> None:
    """The engine's SIGKILL would end tasks that were still inside the time they were promised."""
    given = service()["environment"].get(variable("shutdown_grace"))
    default = Settings.model_fields["shutdown_grace"].default
    grace_s = float(default if given is None else given)

    assert seconds(service()["stop_grace_period"]) > (
        grace_s + MAX_SHIELD_S + SETTLE_S + STORE_LIMIT_S
    )


def test_compose_publishes_on_this_machine_only() -> None:
    """The service has no authentication: who reaches the port can run tasks."""
    assert service()["ports"]
    for published in service()["ports"]:
        address, host_port, container_port = published.split(":")

        assert address == "127.0.0.1"
        assert 0 < int(host_port) < 65_536
        assert container_port == the("EXPOSE").text


def test_compose_keeps_the_data_in_a_volume() -> None:
    """A new container of the same service finds what the old one stored."""
    mounts = dict(mount.split(":")[:2] for mount in service()["volumes"])

    assert set(mounts) <= set(COMPOSE["volumes"])
    assert environment(FINAL)["QUIESCE_DATA_DIR"] in mounts.values()


def test_compose_limits_what_a_runaway_task_can_take() -> None:
    """A fork bomb or a leak in task code ends in its container, not on the whole machine."""
    limits = service()["deploy"]["resources"]["limits"]

    assert {"cpus", "memory", "pids"} <= limits.keys()
    assert service()["init"] is True
    assert service()["cap_drop"] == ["ALL"]
    assert service()["read_only"] is True


def test_compose_leaves_the_health_check_to_the_image() -> None:
    """Two commands, or two patiences, for one question drift apart."""
    there, here = the("HEALTHCHECK").flags(), service()["healthcheck"]

    assert {name.replace("-", "_"): value for name, value in there.items()} == {
        name: str(value) for name, value in here.items()
    }
    assert "test" not in service()["healthcheck"]
    assert the("HEALTHCHECK").flags().keys() >= {"interval", "timeout", "start-period", "retries"}


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that answers every GET with one status; yields the port."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(CHECK_WAIT_S)
    assert set(paths) == {"/health/live"}


def exit_code_of_the_check(port: int) -> int:
    program, *arguments = the("HEALTHCHECK").exec_form()
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"QUIESCE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        timeout=CHECK_WAIT_S,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_believes_only_a_200(status: int, is_healthy: bool) -> None:
    """A check that cannot fail keeps a dead service in rotation; a proxy must not answer for it."""
    with answering(status) as port:
        assert (exit_code_of_the_check(port) == 0) is is_healthy


def test_the_health_check_fails_when_nobody_listens() -> None:
    """The port was free a moment ago."""
    with answering(200) as port:
        exit_code_of_the_check(port)

    assert exit_code_of_the_check(port) != 0
