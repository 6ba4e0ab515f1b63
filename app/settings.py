"""Every knob of the service, with its unit, default and reason; checked as a whole before a start."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from workers.examples import DEFAULT_HOSTS
from workers.messages import MAX_PAYLOAD_BYTES

PREFIX = "QUIESCE_"
MAX_STOP_WAIT_S = 600.0
NEVER = "never"
#: Neither database takes a value of a gigabyte.
MAX_RESULT_BYTES = min(512 << 20, MAX_PAYLOAD_BYTES)
DATABASES = ("sqlite:///", "postgresql://")
SECRET = ("database",)  # what was given for these is never shown

_DURATION = re.compile(r"(\d+(?:\.\d*)?)\s*([smhd]?)")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

_CGROUP = Path("/sys/fs/cgroup")


class SettingsInvalid(ValueError):
    """The settings cannot be used; one message per mistake, each naming variable and option."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """CPUs this process may use: its affinity, capped by the control group's quota; at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def default_data_dir() -> Path:
    """Below the user's state directory, as the XDG base directory specification has it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "quiesce"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _never(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == NEVER else value


def _duration(value: object) -> object:
    """Seconds, if a number has a unit behind it."""
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value.strip().lower())
    if found is None:
        raise ValueError("a number of seconds, or one with a unit: 90m, 12h, 30d")
    return float(found[1]) * _UNITS_S[found[2]]


def _database(value: str | None) -> str | None:
    if value is not None and not value.startswith(DATABASES):
        raise ValueError(f"should begin with {' or '.join(DATABASES)}")
    return value


Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Size = Annotated[ByteSize, Field(gt=0)]


class Settings(BaseSettings):
    """What a person running the service may choose; read once, then never changed."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. There is no authentication: only this machine by default.",
    )
    port: int = Field(
        8000,
        ge=0,
        le=65_535,
        description="TCP port to listen on; 0 takes any free one and prints it.",
    )
    workers: int = Field(
        default_factory=usable_cpus,
        ge=1,
        le=1_024,
        description="Worker processes. Default: the CPUs this process may use (affinity and "
        "control-group quota respected), since tasks are expected to compute.",
    )
    tasks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("workers.examples",),
        min_length=1,
        description="Import paths of the task modules, separated by commas.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder for the service's own files. Locked while it runs, so that two servers "
        "never share one. Default: quiesce in the user's state directory.",
    )
    database: Annotated[str | None, AfterValidator(_database)] = Field(
        None,
        repr=False,  # it may have a password in it
        description="Where batches are kept: sqlite:///PATH or postgresql://USER@HOST/NAME. Held "
        "while the service runs, so that two never share one. Default: the file quiesce.db in the "
        "data folder.",
    )
    grace: Annotated[Seconds | None, BeforeValidator(_never)] = Field(
        None,
        description="Seconds from a stop to the kill of what still runs, where neither the request "
        "nor the batch says; 'never' (the default) kills nothing without being asked.",
    )
    shutdown_grace: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = Field(
        10.0,
        description="Seconds that running tasks get when the service shuts down, before they are "
        "killed. Keep it and QUIESCE_MAX_SHIELD together below the time your supervisor waits before "
        "it kills the service.",
    )
    max_shield: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = Field(
        30.0,
        description="Seconds that a task's critical section (`stop.shield`) may hold up a kill, "
        "whatever the task asks for; once per task.",
    )
    max_gap: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = Field(
        10.0,
        description="Seconds that a task may go without a look at its event before its stack is kept "
        "with its record, where the task itself does not say (`@task(max_gap=...)`).",
    )
    stop_wait: Annotated[float, Field(ge=0, le=MAX_STOP_WAIT_S, allow_inf_nan=False)] = Field(
        60.0,
        description="Seconds a DELETE waits for its receipt before it answers 202, where the "
        "request does not say.",
    )
    max_body_bytes: Size = Field(
        ByteSize(64 * 2**20),
        description="Largest request body, in bytes or with a unit (64MiB); it bounds the memory "
        "that one request can take.",
    )
    max_item_bytes: Size = Field(
        ByteSize(2**20),
        description="Largest single item of a batch, in bytes or with a unit; it bounds how long "
        "the service looks at one item without a pause.",
    )
    max_result_bytes: Size = Field(
        ByteSize(128 * 2**20),
        le=MAX_RESULT_BYTES,
        description="Largest result of one task, in bytes or with a unit; a longer one fails its "
        "task (ResultTooLarge).",
    )
    max_tasks_per_worker: int | None = Field(
        None,
        ge=1,
        description="Tasks after which a worker is replaced, between tasks, against slow leaks in "
        "task code; unset, never.",
    )
    max_worker_rss: Size | None = Field(
        None,
        description="Resident memory after which a worker is replaced, between tasks, in bytes or "
        "with a unit; unset, never.",
    )
    files_root: Path | None = Field(
        None,
        description="Folder whose files the example tasks may use: 'checksum' reads them, 'convert' "
        "writes compressed ones beside them; unset, none.",
    )
    crawl_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        DEFAULT_HOSTS,
        description="Hosts that the example task 'crawl' may ask for pages, separated by commas; "
        "only this machine by default, because anybody who may post a task could ask them.",
    )
    retention: Annotated[float, Field(ge=0, le=36_500 * 86_400), BeforeValidator(_duration)] = (
        Field(
            30 * 86_400.0,
            description="How long a batch is kept after its end, with its results and its "
            "Idempotency-Key: seconds, or with a unit (90m, 12h, 30d). Default: 30 days.",
        )
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much is logged to standard error."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.max_item_bytes > self.max_body_bytes:
            raise ValueError(
                f"{name_both('max_item_bytes')} ({self.max_item_bytes}) is larger than "
                f"{name_both('max_body_bytes')} ({self.max_body_bytes}): no such item could arrive"
            )
        if self.files_root is not None and not self.files_root.is_dir():
            raise ValueError(f"{name_both('files_root')}: {str(self.files_root)!r} is not a folder")
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise ValueError(f"{name_both('data_dir')}: {str(self.data_dir)!r} is not a folder")
        return self


def load_settings(options: Mapping[str, Any] | None = None) -> Settings:
    """The settings from the environment, with `options` winning. Raises SettingsInvalid."""
    unknown = _unknown_variables(os.environ)
    try:
        settings = Settings(**options or {})
    except ValidationError as error:
        mistakes = [_explain(problem) for problem in error.errors(include_url=False)]
        raise SettingsInvalid(unknown + mistakes) from None
    if unknown:
        raise SettingsInvalid(unknown)
    return settings


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def option(field: str) -> str:
    """The command-line option of a setting."""
    return "--" + field.replace("_", "-")


def name_both(field: str) -> str:
    """How a message names a setting, whichever way it was given."""
    return f"{variable(field)} / {option(field)}"


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = [variable(field) for field in Settings.model_fields]
    messages = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            messages.append(f"{name} is not a setting of this service{hint}")
    return messages


def _explain(problem: Any) -> str:
    """One line for one mistake; those about several settings name them by themselves."""
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    field = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"{field!r} is not a setting of this service"
    given = "" if field in SECRET else f" (got {problem['input']!r})"
    return f"{name_both(field)}: {message}{given}"


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs' worth of time the control group grants, version 2 or 1; None without a limit."""
    own = _own_groups()
    quotas = [_quota_v2(folder) for folder in _upwards(cgroup, own.get("", "/"))]
    quotas += [_quota_v1(folder) for folder in _upwards(cgroup / "cpu", own.get("cpu", "/"))]
    found = [quota for quota in quotas if quota is not None]
    return min(found) if found else None


def _own_groups() -> dict[str, str]:
    """Path of this process's control group by controller; version 2 has the empty name."""
    groups: dict[str, str] = {}
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _upwards(root: Path, path: str) -> list[Path]:
    """A group and all above it: each may hold a limit; inside a container only the root shows."""
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
