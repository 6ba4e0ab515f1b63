"""`python -m app demo`: stop a batch safely over HTTP, use its workers again, survive `kill -9`."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.demo_claims import Claims
from app.demo_crash import show_a_crash
from app.demo_service import (
    CLIENT_LIMIT_S,
    POLL_S,
    WAIT_S,
    WORKERS,
    DemoFailed,
    DemoService,
    Json,
    demo_service,
)

COUNTDOWNS = 10  # more than there are workers
COUNTDOWN_S = 10
LET_IT_RUN_S = 2.0
#: After the receipt, long enough for every countdown that still ran to say so.
LOOK_AGAIN_S = 1.5
MOST_FILES = 2_000


def run() -> int:
    """The whole demonstration; 0 only if everything it claims was true."""
    console = Console(soft_wrap=not sys.stdout.isatty())
    claims = Claims(console)
    root = Path(sysconfig.get_paths()["stdlib"]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleaning up
    try:
        with demo_service(root) as service:
            console.print(f"The service runs on [bold]{service.url}[/] with {WORKERS} workers.\n")
            before = service.workers()
            _stop_a_batch(service, claims)
            _use_the_workers_again(service, claims, root)
            after = service.workers()
            claims.check(before == after, f"the same workers did both: {_numbers(after)}")
            show_a_crash(service, claims)
            _end(service, claims)
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


def _stop_a_batch(service: DemoService, claims: Claims) -> None:
    items = [{"identifier": number, "seconds": COUNTDOWN_S} for number in range(1, COUNTDOWNS + 1)]
    body = {"task": "countdown", "items": items, "name": "the textbook example"}
    batch = service.post(body)
    link = batch["links"]["self"]
    claims.console.print(
        f"POST /batches: {COUNTDOWNS} countdowns of {COUNTDOWN_S} s; two seconds later ..."
    )
    time.sleep(LET_IT_RUN_S)
    counts = service.get(link)["counts"]
    claims.check(
        counts["running"] == WORKERS and counts["pending"] == COUNTDOWNS - WORKERS,
        f"{counts['running']} run, {counts['pending']} wait for a worker",
    )
    claims.console.print(f"\nDELETE {link}")
    asked = time.perf_counter()
    reply = service.http.delete(link, params={"wait": WAIT_S, "reason": "demonstration"})
    took_s = time.perf_counter() - asked
    claims.check(reply.status_code == 200, f"answered {reply.status_code} in {took_s * 1e3:.1f} ms")
    receipt = reply.raise_for_status().json()
    tasks = service.get(batch["links"]["tasks"])["tasks"]
    _print_receipt(claims.console, receipt, tasks)
    _check_receipt(service, claims, receipt)


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


def _check_receipt(service: DemoService, claims: Claims, receipt: Json) -> None:
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
    seen = service.http.get(receipt["links"]["self"])
    time.sleep(LOOK_AGAIN_S)
    etag = {"If-None-Match": seen.headers["ETag"]}
    again = service.http.get(receipt["links"]["self"], headers=etag)
    busy = [worker for worker in service.get("/pool")["workers"] if worker["batch"] is not None]
    claims.check(
        again.status_code == 304 and not busy,
        f"nothing of it ran after the answer: {LOOK_AGAIN_S:g} s later nothing has changed",
    )


def _use_the_workers_again(service: DemoService, claims: Claims, root: Path) -> None:
    paths = list(_files(root))
    claims.console.print(
        f"\nPOST /batches: checksums of {len(paths)} files of Python's own library"
    )
    batch = service.post({"task": "checksum", "items": [{"path": path} for path in paths]})
    batch = _watch(service, claims.console, batch)
    claims.check(
        batch["state"] == "succeeded" and batch["counts"]["succeeded"] == len(paths),
        f"{batch['counts']['succeeded']} tasks succeeded",
    )
    with service.http.stream("GET", batch["links"]["results"]) as reply:
        lines = [json.loads(line) for line in reply.raise_for_status().iter_lines()]
    found = {line["result"]["path"]: line["result"]["sha256"] for line in lines}
    expected = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths}
    claims.check(found == expected, "every checksum is the one hashlib computes here")


def _watch(service: DemoService, console: Console, batch: Json) -> Json:
    """Show a batch's progress until it has ended; the batch as it ended."""
    columns = (TextColumn("checksum"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deadline = time.monotonic() + CLIENT_LIMIT_S
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("checksum", total=batch["total"])
        while batch["finished_at"] is None:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the batch has not ended after {CLIENT_LIMIT_S:.0f} s")
            batch = service.get(batch["links"]["self"], wait=POLL_S)
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


def _end(service: DemoService, claims: Claims) -> None:
    code = service.end()
    claims.check(code == 0, f"asked to end, the service ended with exit code {code}")
    left = service.processes()
    claims.check(not left, "and so have its workers, and all that it had started")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _numbers(pids: list[int]) -> str:
    return ", ".join(map(str, pids))
