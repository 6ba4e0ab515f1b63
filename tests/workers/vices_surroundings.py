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
import stat
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.workers.good_tasks import wait_for_file
from workers import Progress, leftovers, task

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
def close_everything() -> None:
    os.closerange(0, 100_000)


def open_descriptors() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  # the fastest way


@task
def close_everything_quickly() -> None:
    """Only what is open: done before the worker takes it for a task that takes time."""
    for number in open_descriptors():
        with suppress(OSError):
            os.close(number)


@task
def put_a_file_over_everything(path: str, quickly: bool) -> None:
    """Whatever the worker writes now would end up in the file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if quickly:
        for number in open_descriptors():
            os.dup2(file, number)
        return
    for number in range(5000):
        with suppress(OSError):
            os.fstat(number)
            os.dup2(file, number)


@task
def put_a_file_over_everything_and_wait(path: str, fifo: str) -> None:
    """For longer than it should be silent."""
    put_a_file_over_everything(path, quickly=True)
    wait_for_file(fifo)


@task
def put_a_file_over_everything_and_report(path: str, *, progress: Progress) -> None:
    """A report in the middle of it."""
    put_a_file_over_everything(path, quickly=True)
    progress(1, 2, "half done")


@task
def put_a_file_over_the_sockets(path: str, fifo: str) -> int:
    """Usually nothing; else it blocks on the FIFO afterwards, if there is one."""
    if path:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        for number in open_descriptors():
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.dup2(file, number)
        if fifo:
            wait_for_file(fifo)
    return os.getpid()


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
def reuse_everything(path: str) -> None:
    """Close all, then open a file again and again until every number is taken."""
    os.closerange(0, 100_000)
    with suppress(OSError):
        while True:
            os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@task
def close_the_standard_streams(way: str) -> None:
    match way:
        case "objects":
            for stream in (sys.stdin, sys.stdout, sys.stderr):
                stream.close()
        case "originals":
            for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
                assert stream is not None
                stream.close()
        case "detach":
            sys.stdout.detach()  # type: ignore[union-attr]  # it is one that can
        case "descriptors":
            os.closerange(0, 3)


@task
def send_the_standard_streams_to(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in range(3):
        os.dup2(file, number)


@task
def use_the_standard_streams(text: str) -> str:
    """What a good task may do at any time; what it read."""
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    os.write(1, text.encode())
    return sys.stdin.read() + os.read(0, 10).decode()


@task
def truncate_everything() -> None:
    """Cut every file it can reach to nothing."""
    for fd in range(3, 5000):
        with suppress(OSError):
            os.ftruncate(fd, 0)


@task
def read_stdin() -> str:
    return sys.stdin.read()


@task
def ask_the_user() -> str:
    return input("really? ")


@task
def print_much(lines: int) -> None:
    for _ in range(lines):
        print("x" * 1000)


@task
def print_one_long_line(mebibytes: int) -> None:
    for _ in range(mebibytes):
        print("x" * (1 << 20), end="")


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
