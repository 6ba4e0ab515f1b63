"""Tasks for the tests of the service: each misbehaves, or behaves, in one way."""

from pathlib import Path
from time import monotonic, sleep

from workers import Progress, Savepoint, StopEvent, Stopped, task


@task
def noop(number: int = 0) -> int:
    """Return at once."""
    return number


@task
def wait_for_stop(*, stop: StopEvent) -> str:
    """Wait until asked to stop, a minute at most."""
    return "stopped" if stop.wait(60) else "never asked"


@task
def never_look(seconds: float = 60.0) -> str:
    """Sleep without a look at the event."""
    sleep(seconds)
    return "done"


@task
def scribble(path: Path, tidy_s: float, *, stop: StopEvent) -> str:
    """Append to a file until asked to stop, then take a while to write the last line."""
    while not stop.wait(0.005):
        with path.open("a") as file:
            file.write("working\n")
    sleep(tidy_s)
    with path.open("a") as file:
        file.write("tidied up\n")
    return "tidy"


@task
def fail(message: str = "as asked") -> None:
    """Raise ValueError."""
    raise ValueError(message)


@task
def give_up() -> None:
    """Raise Stopped although nobody asked."""
    raise Stopped


@task
def half_way(*, stop: StopEvent, progress: Progress) -> None:
    """Report progress, then wait until asked to stop."""
    progress(1, 2, "half")
    stop.wait(60)
    stop.raise_if_set()


@task
def go_on(fails: bool = True, *, savepoint: Savepoint) -> list[int]:
    """Save one more number than the attempt before; fail, or return them all."""
    numbers = [*savepoint.load([]), 1]
    savepoint.save(numbers)
    if fails and len(numbers) < 3:
        raise ValueError(f"at {len(numbers)}")
    return numbers


@task
def save_and_wait(*, stop: StopEvent, savepoint: Savepoint) -> None:
    """Save where it is, then wait until asked to stop."""
    savepoint.save({"page": 7})
    stop.wait(60)
    stop.raise_if_set()


@task
def blob(size: int) -> str:
    """Return a text of this many characters."""
    return "x" * size


@task
def fail_or_sleep(fails: bool) -> None:
    """Raise after a moment, or sleep a minute without a look at the event."""
    sleep(0.3 if fails else 60)
    raise ValueError("as asked")


@task
def hold(seconds: float, *, stop: StopEvent) -> str:
    """Spend some seconds in a critical section, then end as asked."""
    with stop.shield(seconds + 10):
        sleep(seconds)
    stop.raise_if_set()
    return "never asked"


@task
def look_around(seconds: float, *, stop: StopEvent) -> int:
    """Look every few milliseconds, without ever waiting for the event; how often it looked."""
    end, looks = monotonic() + seconds, 0
    while monotonic() < end and not stop.is_set():
        looks += 1
        sleep(0.005)
    return looks


@task
def count_up(path: Path, to: int, *, stop: StopEvent, savepoint: Savepoint) -> int:
    """Append each number to a file, saved as it goes; what was saved is not written again."""
    at: int = savepoint.load(0)
    while at < to:
        if stop.wait(0.02):
            return at
        with path.open("a") as file:
            file.write(f"{at}\n")
        at += 1
        savepoint.save(at)
    return at


@task
def wait_for_file(path: Path) -> str:
    """Wait until a file is there, a minute at most."""
    end = monotonic() + 60
    while not path.exists() and monotonic() < end:
        sleep(0.01)
    return "there" if path.exists() else "never came"
