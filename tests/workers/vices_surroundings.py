"""Tasks that change the process they run in, each named for how."""

from __future__ import annotations

import contextvars
import ctypes
import decimal
import faulthandler
import gc
import json
import locale
import os
import random
import resource
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from workers import leftovers, task

_wakeup = socket.socketpair()
_wakeup[0].setblocking(False)
VARIABLE = contextvars.ContextVar("VARIABLE", default="untouched")


@task
def change_everything(directory: str) -> None:
    """All that the kernel keeps for a process and Python can set."""
    os.chdir(directory)
    os.umask(0o777)
    os.environ["QUIESCE_TEST_LEFT"] = "here"
    os.environ.pop("PATH", None)
    os.environ["TZ"] = "XYZ+7"
    time.tzset()
    locale.setlocale(locale.LC_TIME, "C.UTF-8")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    sys.stdout = None


@task
def maybe_change_umask(does: bool) -> int:
    """Give back the umask that was found, and leave another one or not."""
    found = os.umask(0o777)
    if not does:
        os.umask(found)
    return found


@task
def change_the_interpreter(directory: str) -> None:
    """The switches that change how other people's code runs."""
    sys.setrecursionlimit(120)
    sys.setswitchinterval(10)
    sys.set_int_max_str_digits(640)
    sys.settrace(_trace)
    sys.setprofile(_trace)
    gc.disable()
    gc.set_threshold(1, 1, 1)
    warnings.simplefilter("error")
    socket.setdefaulttimeout(0.001)
    sys.path.insert(0, directory)
    decimal.getcontext().prec = 2
    VARIABLE.set("changed")
    signal.set_wakeup_fd(_wakeup[0].fileno())
    faulthandler.disable()
    faulthandler.dump_traceback_later(0.05, exit=True)
    os.environ = {}  # type: ignore[assignment]  # noqa: B003  # the vice itself


def _trace(*_: Any) -> None:
    return None


@task
def seed_the_dice(seed: int) -> float:
    random.seed(seed)
    return random.random()


@task
def throw_the_dice() -> float:
    return random.random()


@task
def tell_surroundings() -> dict[str, Any]:
    """All of the above as a task finds it."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": str(Path.cwd()),
        "umask": umask,
        "left": os.environ.get("QUIESCE_TEST_LEFT"),
        "has_path": "PATH" in os.environ,
        "time_zone": time.tzname,
        "locale": locale.setlocale(locale.LC_ALL),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "usr1": signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "stdout": sys.stdout is not None,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "limits": {n: resource.getrlimit(getattr(resource, n)) for n in _limit_names()},
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "digits": sys.get_int_max_str_digits(),
        "trace": sys.gettrace() is None or sys.gettrace() is not _trace,
        "profile": sys.getprofile() is None,
        "gc": [gc.isenabled(), gc.get_threshold()],
        "warnings": [each[0] for each in warnings.filters],
        "socket": socket.getdefaulttimeout(),
        "first_path": sys.path[0],
        "precision": decimal.getcontext().prec,
        "variable": VARIABLE.get(),
        "wakeup": _wakeup_fd(),
        "faulthandler": faulthandler.is_enabled(),
    }


def _wakeup_fd() -> int:
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found)
    return found


def _limit_names() -> list[str]:
    return [name for name in dir(resource) if name.startswith("RLIMIT_")]


@task
def lower_soft_limits() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


@task
def lower_a_hard_limit() -> int:
    """Without the right to raise it again, as in a container."""
    drop_capabilities()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    return os.getpid()


@task
def double_or_spoil_its_worker(number: int, spoils: bool) -> int:
    """Not so short that nobody would look what it has done."""
    if spoils:
        lower_a_hard_limit()
        time.sleep(0.002)
    return 2 * number


@task
def forget_descriptors(share: float) -> int:
    """Open files, and never close them; how many of all that it may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid = os.getpid()
    with suppress(OSError):
        for _ in range(int(soft * share)):
            os.open("/", os.O_RDONLY)
    return pid


@task
def be_nice(drops: bool) -> int:
    """As well-meant batch jobs are."""
    if drops:
        drop_capabilities()
    os.nice(5)
    return os.getpid()


@task
def pin_to_one_cpu() -> int:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return os.getpid()


@task
def become_nobody(for_good: bool) -> int:
    """Give up root's rights, for a while or for ever."""
    if for_good:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    else:
        os.setgroups([65534])
        os.setegid(65534)
        os.seteuid(65534)
    return os.getpid()


@task
def change_the_root(directory: str) -> int:
    os.chroot(directory)
    os.chdir("/")
    return os.getpid()


def drop_capabilities() -> None:
    """Root without its privileges is like any user: what is lowered stays down."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3 = 0x20080522
    header, nothing = (ctypes.c_uint32 * 2)(version_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


@task
def change_directory_first(number: int) -> str:
    """Item 0 goes elsewhere, sets a variable and lowers a limit; each says what it found."""
    found = f"{Path.cwd()} {os.environ.get('QUIESCE_TEST_LEFT')} {_descriptor_limit()}"
    if not number:
        os.chdir("/proc")
        os.environ["QUIESCE_TEST_LEFT"] = "here"
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    return found


def _descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@task
def forget_modules() -> None:
    """As plug-in loaders do that want a fresh start."""
    sys.modules.clear()


@task
def replace_modules() -> None:
    sys.modules = {}


@task
def break_its_worker() -> None:
    """Spoil the worker's own code, and the ways to say so and to give up."""
    leftovers.end_children = broken
    os._exit = broken
    sys.stderr = None


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("patched")


@task
def patch_the_standard_library() -> None:
    """Mocks that were started and never stopped."""
    for name in ("write", "read", "getpid", "_exit", "fstat", "pidfd_open"):
        setattr(os, name, broken)
    for name in ("monotonic", "time", "sleep", "perf_counter"):
        setattr(time, name, broken)
    for name in ("dumps", "loads"):
        setattr(json, name, broken)
