"""`python -m app demo`: stop a batch safely over HTTP, then use the same workers again."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from workers.linux import die_with_parent

WORKERS = 4
COUNTDOWNS = 10  # more than there are workers
COUNTDOWN_S = 10
LET_IT_RUN_S = 2.0
#: After the receipt, long enough for every countdown that still ran to say so.
LOOK_AGAIN_S = 1.5
MOST_FILES = 2_000

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.05
#: A DELETE and a GET with `wait` are answered late on purpose.
WAIT_S = 60
CLIENT_LIMIT_S = WAIT_S + 30.0
URL_MARK = "http://"

Json = dict[str, Any]


class DemoFailed(Exception):
    """The demonstration cannot go on; the message says why."""


class Claims:
    """What the demonstration shows, each checked; printed one a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.all_true = True

    def check(self, is_true: bool, text: str) -> None:
        """Print the claim with what became of it."""
        self.all_true &= is_true
        mark = "[green]  ok [/]" if is_true else "[bold red]  NO [/]"
        self._console.print(f"{mark} {text}", highlight=False)


def run() -> int:
    """The whole demonstration; 0 only if everything it claims was true."""
    console = Console(soft_wrap=not sys.stdout.isatty())
    claims = Claims(console)
    root = Path(sysconfig.get_paths()["stdlib"]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleaning up
    try:
        with (
            _service(root, claims) as url,
            httpx.Client(base_url=url, timeout=CLIENT_LIMIT_S) as http,
        ):
            console.print(f"The service runs on [bold]{url}[/] with {WORKERS} workers.\n")
            before = _pids(http)
            _stop_a_batch(http, console, claims)
            _use_the_workers_again(http, console, claims, root)
            after = _pids(http)
            claims.check(before == after, f"the same workers did both: {_numbers(after)}")
        left = [pid for pid in after if Path(f"/proc/{pid}").exists()]
        claims.check(not left, "and so have its workers")
    except KeyboardInterrupt:
        console.print("\ninterrupted")
        return 130
    except (DemoFailed, httpx.HTTPError) as error:
        console.print(f"[bold red]the demonstration failed:[/] {error}")
        return 1
    console.print()
    console.print(
        "All of it was true." if claims.all_true else "[bold red]Not all of it was true.[/]"
    )
    return 0 if claims.all_true else 1


def _stop_a_batch(http: httpx.Client, console: Console, claims: Claims) -> None:
    items = [{"identifier": number, "seconds": COUNTDOWN_S} for number in range(1, COUNTDOWNS + 1)]
    body = {"task": "countdown", "items": items, "name": "the textbook example"}
    batch = _post(http, body)
    link = batch["links"]["self"]
    console.print(
        f"POST /batches: {COUNTDOWNS} countdowns of {COUNTDOWN_S} s; two seconds later ..."
    )
    time.sleep(LET_IT_RUN_S)
    counts = _get(http, link)["counts"]
    claims.check(
        counts["running"] == WORKERS and counts["pending"] == COUNTDOWNS - WORKERS,
        f"{counts['running']} run, {counts['pending']} wait for a worker",
    )
    console.print(f"\nDELETE {link}")
    asked = time.perf_counter()
    reply = http.delete(link, params={"wait": WAIT_S, "reason": "demonstration"})
    took_s = time.perf_counter() - asked
    claims.check(reply.status_code == 200, f"answered {reply.status_code} in {took_s * 1e3:.1f} ms")
    receipt = reply.raise_for_status().json()
    tasks = _get(http, batch["links"]["tasks"])["tasks"]
    _print_receipt(console, receipt, tasks)
    _check_receipt(http, claims, receipt)


def _print_receipt(console: Console, receipt: Json, tasks: list[Json]) -> None:
    stops = {task["index"]: task for task in receipt["stop"]["tasks"]}
    table = Table(title="The receipt", title_justify="left")
    for name in ("task", "state", "noticed after", "ended after", "result"):
        table.add_column(name, justify="right" if "after" in name or name == "task" else "left")
    for task in tasks:
        stop = stops.get(task["index"], {})
        times = [_milliseconds(stop.get(name)) for name in ("noticed", "ended")]
        result = task.get("result", "never started" if task["state"] == "skipped" else "")
        table.add_row(str(task["index"]), task["state"], *times, str(result))
    console.print(table)


def _check_receipt(http: httpx.Client, claims: Claims, receipt: Json) -> None:
    stop, counts = receipt["stop"], receipt["counts"]
    noticed = [task["noticed"] for task in stop["tasks"]]
    claims.check(
        receipt["state"] == "stopped" and counts["stopped"] == WORKERS == len(noticed),
        f"{counts['stopped']} tasks stopped at a checkpoint, none was killed",
    )
    claims.check(
        None not in noticed and counts["killed"] == 0 and stop["unkillable"] == [],
        "each of them saw its event set and returned by itself",
    )
    claims.check(
        counts["skipped"] == COUNTDOWNS - WORKERS, f"{counts['skipped']} tasks never started"
    )
    claims.check(
        stop["settled_at"] is not None, f"the stop took {_milliseconds(stop['took'])}, all in all"
    )
    seen = http.get(receipt["links"]["self"])
    time.sleep(LOOK_AGAIN_S)
    again = http.get(receipt["links"]["self"], headers={"If-None-Match": seen.headers["ETag"]})
    busy = [worker for worker in _get(http, "/pool")["workers"] if worker["batch"] is not None]
    claims.check(
        again.status_code == 304 and not busy,
        f"nothing of it ran after the answer: {LOOK_AGAIN_S:g} s later nothing has changed",
    )


def _use_the_workers_again(
    http: httpx.Client, console: Console, claims: Claims, root: Path
) -> None:
    paths = list(_files(root))
    console.print(f"\nPOST /batches: checksums of {len(paths)} files of Python's own library")
    batch = _post(http, {"task": "checksum", "items": [{"path": path} for path in paths]})
    batch = _watch(http, console, batch)
    claims.check(
        batch["state"] == "succeeded" and batch["counts"]["succeeded"] == len(paths),
        f"{batch['counts']['succeeded']} tasks succeeded",
    )
    with http.stream("GET", batch["links"]["results"]) as reply:
        lines = [json.loads(line) for line in reply.raise_for_status().iter_lines()]
    found = {line["result"]["path"]: line["result"]["sha256"] for line in lines}
    expected = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths}
    claims.check(found == expected, "every checksum is the one hashlib computes here")


def _watch(http: httpx.Client, console: Console, batch: Json) -> Json:
    """Show a batch's progress until it has ended; the batch as it ended."""
    columns = (TextColumn("checksum"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + CLIENT_LIMIT_S
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("checksum", total=batch["total"])
        while batch["finished_at"] is None:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the batch has not ended after {CLIENT_LIMIT_S:.0f} s")
            batch = _get(http, batch["links"]["self"], wait=POLL_S)
            counts = batch["counts"]
            progress.update(bar, completed=batch["total"] - counts["pending"] - counts["running"])
    return batch


def _files(root: Path) -> Iterator[str]:
    """Source files below the root, by relative path; what is linked from elsewhere is left out."""
    count = 0
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        is_ours = "site-packages" not in relative.parts and "dist-packages" not in relative.parts
        if is_ours and path.is_file() and path.resolve().is_relative_to(root):
            yield str(relative)
            count += 1
            if count == MOST_FILES:
                return


@contextmanager
def _service(files_root: Path, claims: Claims) -> Iterator[str]:
    """A real service in a process of its own, ended in any case; gives its URL."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("QUIESCE_")}
    with tempfile.TemporaryDirectory(prefix="quiesce-demo-") as folder:
        options = {
            "--host": "127.0.0.1",
            "--port": "0",
            "--workers": str(WORKERS),
            "--data-dir": folder,
            "--files-root": str(files_root),
            "--log-level": "warning",
        }
        words = [word for pair in options.items() for word in pair]
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", *words],
            cwd=Path(__file__).resolve().parents[1],
            env=outside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demonstration, which then ends the service
            # Should the demonstration itself be killed; it has no other thread yet.
            preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509
        )
        try:
            yield _url_of(process)
            process.terminate()
            code = process.wait(STOP_LIMIT_S)
            claims.check(code == 0, f"asked to end, the service ended with exit code {code}")
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"the service has not ended after {STOP_LIMIT_S:.0f} s") from None
        finally:
            _end(process)


def _url_of(process: subprocess.Popen[str]) -> str:
    """The address the service announces once it is ready."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
    line = process.stdout.readline() if readable else ""
    words = [word for word in line.split() if word.startswith(URL_MARK)]
    if not words:
        raise DemoFailed(f"the service did not start: exit code {process.poll()}")
    return words[0]


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)
    if process.stdout is not None:
        process.stdout.close()


def _post(http: httpx.Client, body: Json) -> Json:
    reply = http.post("/batches", json=body)
    if reply.status_code != 202:
        raise DemoFailed(f"POST /batches answered {reply.status_code}: {reply.text}")
    batch: Json = reply.json()
    return batch


def _get(http: httpx.Client, link: str, **params: float) -> Json:
    answer: Json = http.get(link, params=params).raise_for_status().json()
    return answer


def _pids(http: httpx.Client) -> list[int]:
    """The pids of the workers, once all of them are there."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        workers = _get(http, "/pool")["workers"]
        if len(workers) == WORKERS and all(worker["state"] != "starting" for worker in workers):
            return sorted(worker["pid"] for worker in workers)
        if time.monotonic() > deadline:
            raise DemoFailed(f"{WORKERS} workers were not ready after {START_LIMIT_S:.0f} s")
        time.sleep(POLL_S)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _numbers(pids: list[int]) -> str:
    return ", ".join(map(str, pids))
