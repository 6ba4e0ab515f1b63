"""What the crashes once found, or nearly did, each by itself and without any dice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from tests.app.serving import Client, Json, eventually
from tests.chaos.lives import Lives
from tests.chaos.site import LIMIT_S, TASKS

#: Longer than a start takes.
LONG_GRACE_S = 5
#: A task that has run for so long is known to have begun.
KNOWN_S = 0.6
OPEN = ("pending", "running")
WORK_S = 60.0
ROUNDS = 25


@contextmanager
def living(folder: Path, **env: str) -> Iterator[Lives]:
    """Services on one data folder, the first of which is ready."""
    with Lives(folder, {"QUIESCE_TASKS": TASKS} | env) as lives:
        lives.begin()
        lives.await_ready()
        yield lives
        lives.stop()


@contextmanager
def client_of(lives: Lives) -> Iterator[Client]:
    with Client(base_url=lives.url, timeout=LIMIT_S) as client:
        yield client


def crash(lives: Lives) -> None:
    """The service is killed, and the next one started while tasks of the last have their grace."""
    lives.kill()
    lives.begin()
    lives.await_ready()


def submit_work(http: Client, log: Path, **options: str) -> Json:
    """A batch of one task that never looks at its event, and writes all the time."""
    log.touch()
    item = {"log": str(log), "number": 0, "kind": "work", "seconds": WORK_S}
    return http.submit("act", [item], options=options)


def has_run_for_a_while(log: Path) -> bool:
    lines = log.read_text().splitlines()
    return bool(lines) and float(lines[0].split()[-1]) < monotonic() - KNOWN_S


def test_a_batch_that_ends_by_a_crash_has_not_ended_while_its_tasks_run(tmp_path: Path) -> None:
    """Nothing runs after the answer, also if the next service gives it: they are in their grace."""
    logs = [tmp_path / "stopping", tmp_path / "not-to-go-on"]
    with living(tmp_path, QUIESCE_SHUTDOWN_GRACE=str(LONG_GRACE_S)) as lives:
        with client_of(lives) as http:
            batches = [
                submit_work(http, logs[0]),
                submit_work(http, logs[1], on_interruption="stop"),
            ]
            eventually(lambda: all(map(has_run_for_a_while, logs)))
            assert http.stop(batches[0], wait=0).status_code == 202
        crash(lives)
        with client_of(lives) as http:
            receipts = [http.stop(batch, wait=LIMIT_S - 5) for batch in batches]
            sizes = [log.stat().st_size for log in logs]
            sleep(0.1)  # they write every few milliseconds, or never again
            grown = [log.stat().st_size for log in logs]

    assert [(r.status_code, r.json()["state"]) for r in receipts] == [(200, "stopped")] * 2
    assert grown == sizes


def test_a_stop_of_one_task_that_was_answered_outlives_a_crash(tmp_path: Path) -> None:
    """Stopped means stopped: its client was told 202, and asks no more."""
    log = tmp_path / "log"
    with living(tmp_path, QUIESCE_SHUTDOWN_GRACE="0.3") as lives:
        with client_of(lives) as http:
            batch = submit_work(http, log)
            eventually(lambda: has_run_for_a_while(log))
            path = f"{batch['links']['tasks']}/0"
            assert http.delete(path, params={"wait": 0}).status_code == 202
        crash(lives)
        with client_of(lives) as http:
            # Until its end is committed, one that has ended is still running.
            task = eventually(lambda: http.get(path).json(), lambda now: now["state"] not in OPEN)
            http.stop(batch, grace=0)

    assert (task["state"], task["attempt"]) == ("killed", 1)
    assert log.read_text().count("began") == 1


def test_what_was_purged_at_the_moment_of_its_end_is_gone(tmp_path: Path) -> None:
    """The answer says that it has ended; it must not be found by the next request."""
    found = []
    with living(tmp_path) as lives, client_of(lives) as http:
        for number in range(ROUNDS):
            log = tmp_path / f"log-{number}"
            log.touch()
            batch = http.submit("tick", [{"log": str(log), "number": 0}])
            sleep(number * 0.0003)  # its end comes before the purge, at the same time, or after it
            answer = http.stop(batch, purge=True)
            found.append((answer.status_code, http.get(batch["links"]["self"]).status_code))

    assert found == [(200, 404)] * ROUNDS


def test_a_receipt_is_the_same_whenever_it_is_read(tmp_path: Path) -> None:
    """From memory, and from the store, which keeps times in its own way."""
    with living(tmp_path) as lives, client_of(lives) as http:
        batches = []
        for number in range(ROUNDS):
            batch = submit_work(http, tmp_path / f"log-{number}")
            http.running(batch)
            batches.append(http.stop(batch, grace=0).json())
        looks = [http.look(batch) for batch in batches]

    assert [look["stop"] for look in looks] == [batch["stop"] for batch in batches]
