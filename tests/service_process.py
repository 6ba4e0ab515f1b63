"""Starts the real service as a process of its own, for tests that speak to it from outside."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

START_WAIT_S = 30.0
STOP_WAIT_S = 45.0  # the service's own shutdown grace, a shield, and room to settle
FAREWELL_WAIT_S = 15.0  # after a failure: enough for the default shutdown grace
PIPE_WAIT_S = 5.0  # from the end of the process to the end of its output

URL = re.compile(r"http://[^\s/]+:\d+")
STDERR_NAME = "service.stderr"
SHOWN_CHARS = 8_000


class ServiceProcess:
    """A service that said it is ready; made by `running_service`.

    url      where it answers, without a slash at the end
    process  the service alone; the warden, the workers and their children are its own business
    """

    def __init__(self, process: subprocess.Popen[str], stderr_path: Path) -> None:
        self.process = process
        self.url = ""
        self._stderr_path = stderr_path
        self._test_knows_the_end = False
        self._lines: list[str] = []  # written by the reader only
        self._unread: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="service stdout", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def stdout(self) -> str:
        """What it printed so far."""
        return "".join(list(self._lines))

    def stderr(self) -> str:
        """What it logged so far."""
        return self._stderr_path.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self, timeout_s: float = START_WAIT_S) -> None:
        """Until it says where it answers. Raises AssertionError if it does not, or ends before."""
        deadline = time.monotonic() + timeout_s
        while not self.url:
            try:
                line = self._unread.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(self.report(f"not ready after {timeout_s} s")) from None
            if line is None:
                code = self.wait(PIPE_WAIT_S)
                raise AssertionError(self.report(f"ended with {code} before it was ready"))
            if match := URL.search(line):
                self.url = match[0]

    def stop(self, timeout_s: float = STOP_WAIT_S) -> int:
        """Ask it to end with SIGTERM and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> int:
        """End it with SIGKILL, the crash that no program can prepare for."""
        self.process.kill()
        return self.wait()

    def wait(self, timeout_s: float = STOP_WAIT_S) -> int:
        """Its exit code, negative for a signal; from here on the test answers for how it ended.

        raises  AssertionError with its output if it outlives the limit
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.report(f"still running after {timeout_s} s")) from None
        self._test_knows_the_end = True
        return code

    def report(self, headline: str) -> str:
        """The headline over what it printed and logged, for a failure message."""
        return (
            f"service {self.pid}: {headline}\n"
            f"--- stdout\n{self.stdout()[-SHOWN_CHARS:]}\n"
            f"--- stderr\n{self.stderr()[-SHOWN_CHARS:]}"
        )

    def _read(self) -> None:
        """Keep its stdout flowing for as long as it lives, so that it never blocks on a print."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            self._unread.put(line)
        self._unread.put(None)

    def _expect_clean_end(self) -> None:
        """Unless the test saw it end: it has to be alive, and to end with 0 when asked."""
        if self._test_knows_the_end:
            return
        code = self.process.poll()
        assert code is None, self.report(f"ended by itself with {code}")
        code = self.stop()
        assert code == 0, self.report(f"ended with {code} when asked to stop")

    def _let_go(self) -> None:
        """Whatever happened, it is gone afterwards, and so is the thread that read from it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(FAREWELL_WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PIPE_WAIT_S)
        self._reader.join(PIPE_WAIT_S)
        # Closing a pipe that somebody still reads from would wait for that reader.
        if not self._reader.is_alive() and self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def running_service(
    tmp_path: Path, *options: str, start_wait_s: float = START_WAIT_S, **env: str
) -> Iterator[ServiceProcess]:
    """The real service on a free loopback port, with a data folder of its own and two workers.

    options  further words for `python -m app serve`
    env      QUIESCE_* variables; those of the machine do not reach the service
    raises   AssertionError with the service's output if it is not ready in time, dies by itself,
             or does not end with 0 when asked to. A test that ends it (`stop`, `kill`, or a signal
             and `wait`) judges the exit code itself.
    """
    with spawned_service(tmp_path, *options, **env) as service:
        service.wait_until_ready(start_wait_s)
        try:
            yield service
        except BaseException as error:
            error.add_note(service.report("its output"))
            raise
        service._expect_clean_end()


@contextmanager
def spawned_service(tmp_path: Path, *options: str, **env: str) -> Iterator[ServiceProcess]:
    """The same, but just begun: whoever waits until it is ready, ends it, and judges how."""
    service = ServiceProcess(_spawn(tmp_path, options, env), tmp_path / STDERR_NAME)
    try:
        yield service
    finally:
        service._let_go()


def _spawn(tmp_path: Path, options: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("QUIESCE_")}
    ours = {
        "PYTHONUNBUFFERED": "1",
        "QUIESCE_DATA_DIR": str(tmp_path / "data"),
        "QUIESCE_WORKERS": "2",
    }
    with (tmp_path / STDERR_NAME).open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0", *options],
            cwd=ROOT,
            env=outside | ours | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # Ctrl-C in the terminal is for pytest alone, which then ends the service.
            start_new_session=True,
        )
