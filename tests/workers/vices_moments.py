"""Tasks that misbehave at one moment: inside the stop, or just when something else happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from tests.workers.good_tasks import write_line
from workers import StopEvent, Stopped, task


@task
def raise_in_finally(*, stop: StopEvent) -> None:
    try:
        stop.wait()
        stop.raise_if_set()
    finally:
        raise OSError("the disk is full")


class RaisesOnExit:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("cannot roll back")


@task
def raise_on_exit(*, stop: StopEvent) -> None:
    with RaisesOnExit():
        stop.wait()
        stop.raise_if_set()


@task
def raise_in_a_generators_end(*, stop: StopEvent) -> None:
    @contextmanager
    def transaction() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            raise LookupError("the transaction is gone") from error

    with transaction():
        stop.wait()
        stop.raise_if_set()


@task
def exit_when_stopped(code: int, *, stop: StopEvent) -> None:
    stop.wait()
    raise SystemExit(code)


@task
def turn_stopped_into_a_value(*, stop: StopEvent) -> str:
    try:
        stop.wait()
        stop.raise_if_set()
    except Stopped:
        return "half of it"
    return "all of it"


@task
def raise_stopped_when_asked_much_later(log: str, *, stop: StopEvent) -> None:
    """It goes on for a while after the stop, swallowing it twice."""
    stop.wait()
    for number in range(2):
        try:
            stop.raise_if_set()
        except Stopped:
            write_line(log, f"swallowed {number}")
    stop.raise_if_set()


@task
def end_at(due: float, log: str, index: int, *, stop: StopEvent) -> bool:
    """Busy until that moment; whether it saw the stop. The log has its last words."""
    while monotonic() < due and not stop.is_set():
        pass
    saw = stop.is_set()
    write_line(log, f"{index} {saw}")
    return saw


@task
def end_blindly_at(due: float, log: str, index: int) -> int:
    """The same, without a look."""
    while monotonic() < due:
        pass
    write_line(log, f"{index} ended")
    return index


@task
def spin_for(seconds: float, log: str, index: int) -> int:
    """As long as its time limit, or nearly."""
    ends = monotonic() + seconds
    while monotonic() < ends:
        pass
    write_line(log, f"{index} ended")
    return index
